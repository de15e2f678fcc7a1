"""Updates by new data: against closed forms, and what they say of their errors."""

import pickle

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.diagnostics.earlier_data import EarlierData, Replaced
from vijax.model.updating import Updated

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = X @ [1.0, -2.0] + RNG.normal(size=60)
PARTS = np.split(np.arange(60), 3)


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def closed_form(powers):
    """Mean and covariance with the likelihood of each part to a power, the prior to the first."""
    precision, linear = np.eye(2) / 4 * powers[0], np.zeros(2)
    for rows, power in zip(PARTS, powers, strict=True):
        precision += power * X[rows].T @ X[rows]
        linear += power * X[rows].T @ Y[rows]
    return np.linalg.solve(precision, linear), np.linalg.inv(precision)


def in_parts(**options):
    first, *others = PARTS
    posterior = vijax.fit(regression, X[first], Y[first], progress_bar=False)
    evidence = [posterior.log_evidence().value]
    for rows in others:
        posterior = posterior.update(X[rows], Y[rows], **options)
        evidence.append(posterior.log_evidence().value)
    return posterior, sum(evidence)


@pytest.mark.parametrize("forgetting", [1.0, 0.5])
def test_normal_posteriors_are_updated_exactly(forgetting):
    posterior, evidence = in_parts(forgetting=forgetting)
    mean, covariance = closed_form([forgetting**2, forgetting, 1.0])
    sd = np.sqrt(np.diag(covariance))
    draws = posterior.sample(40_000)["w"]
    # moments of 40,000 draws, at each of two updates and here
    assert np.abs(draws.mean(0) - mean).max() < 0.03 * sd.max()
    assert np.abs(np.cov(draws.T) - covariance).max() < 0.05 * np.outer(sd, sd).max()
    assert posterior.status == "certified"
    assert posterior._result.assessment.diagnostics.earlier.error.max() < 0.03
    if forgetting == 1.0:  # the evidence is that of all data
        scale = X @ X.T * 4 + np.eye(60)
        exact = dist.MultivariateNormal(0.0, scale).log_prob(Y)
        assert abs(evidence - exact) < 0.05
    # predictions need no earlier data
    assert posterior.predict(X[:7], np.zeros(7))["y"].shape == (1000, 7)
    assert isinstance(posterior._result.model, Updated)
    assert len(posterior.diagnostics.earlier.replaced) == 2
    loaded = pickle.loads(pickle.dumps(posterior))
    assert loaded.report() == posterior.report()


def test_drift_is_reported():
    first, second, _ = PARTS
    posterior = vijax.fit(regression, X[first], Y[first], progress_bar=False)
    assert "no drift" in posterior.update(X[second], Y[second]).report()
    moved = posterior.update(X[second], Y[second] + 2 * X[second, 0])
    assert "- drift: the new data moved w[0]" in moved.report()


def groups(y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", y.shape[1]):
        theta = numpyro.sample("theta", dist.Normal(loc, 1.0))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_new_groups_have_the_prior_of_the_model():
    y = np.random.default_rng(1).normal(3.0, 1.5, size=(4, 20))
    posterior = vijax.fit(groups, y[:, :8], progress_bar=False)
    posterior = posterior.update(y[:, 8:], new_groups="groups")
    precision = 1 / 25 + 20 / (1 + 1 / 4)
    mean = y.mean() * (20 / 1.25) / precision
    draws = posterior.sample(20_000)["loc"]
    assert abs(draws.mean() - mean) < 0.05 * precision**-0.5
    assert abs(draws.std() * precision**0.5 - 1) < 0.05
    for options, match in (
        ({"new_groups": "group"}, "new_groups: expected plates"),
        ({}, r"site 'theta': expected a latent of shape \(12,\)"),
    ):
        with pytest.raises(vijax.ModelError, match=match):
            posterior.update(y, **options)
    with pytest.raises(ValueError, match="forgetting"):
        posterior.update(y, forgetting=0.0)


def test_the_expected_error_is_that_of_a_skewed_density():
    z = np.linspace(-6, 6, 20_001)
    skewed = np.exp(-(z**2) / 2) * np.maximum(1 + 0.2 * (z**3 - 3 * z) / 6, 0)
    mean, sd = moments(z, skewed)
    skewness = float((skewed / skewed.sum()) @ ((z - mean) / sd) ** 3)
    normal = np.exp(-(((z - mean) / sd) ** 2) / 2)
    for centre, scale in [(0.0, 0.5), (1.5, 0.5), (-2.0, 0.3)]:
        likelihood = np.exp(-(((z - centre) / scale) ** 2) / 2)
        true, approximate = (moments(z, density * likelihood) for density in (skewed, normal))
        replaced = Replaced(*(np.array([one]) for one in (mean, sd, skewness)), 1e12)
        now = Replaced(*(np.array([one]) for one in (*approximate, 0.0)), 1e12)
        (error,) = EarlierData(("z",), (replaced,), now, now.sd[:, None] ** 2).error
        actual = abs(approximate[0] - true[0]) / true[1]
        assert 0.6 * actual < error / 2 < 1.6 * actual


def moments(z, density):
    share = density / density.sum()
    mean = share @ z
    return mean, np.sqrt(share @ (z - mean) ** 2)
