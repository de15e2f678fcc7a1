"""Updates by new data: against closed forms, and what they say of their errors."""

import pickle

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
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


def coin(y):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def noisy_regression(x, y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0.0, 1 / jnp.sqrt(tau)).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)


def two_sites(x, y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(loc + x @ w, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (coin, ((Y > 0) * 1,)),
        pytest.param(noisy_regression, (X, Y), marks=pytest.mark.slow),
        pytest.param(two_sites, (X, Y), marks=pytest.mark.slow),
    ],
)
def test_conjugate_posteriors_are_updated_exactly(model, data):
    whole = vijax.fit(model, *data, guide="conjugate", progress_bar=False)
    posterior, evidence = None, 0.0
    for rows in PARTS:
        part = [one[rows] for one in data]
        if posterior is None:
            posterior = vijax.fit(model, *part, guide="conjugate", progress_bar=False)
        else:
            posterior = posterior.update(*part)
        evidence += posterior.log_evidence().value
    assert posterior.status == "certified"
    (found,) = posterior.params.values()
    (exact,) = whole.params.values()
    for name, value in vars(exact).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=1e-5)
    assert abs(evidence - whole.log_evidence().value) < 1e-2
    assert "update 2: without error from earlier data" in posterior.report()


def logistic(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def test_batches_are_kept_until_the_posterior_is_normal():
    y = (Y > 0) * 1
    posterior = vijax.fit(logistic, X[PARTS[0]], y[PARTS[0]], progress_bar=False)
    evidence = posterior.log_evidence().value
    for rows in PARTS[1:]:
        posterior = posterior.update(X[rows], y[rows])
        evidence += posterior.log_evidence().value
    assert posterior.diagnostics.earlier.num_kept == 2
    side = np.linspace(-6, 6, 401)
    w = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    logits = w @ X.T
    log_density = (y * logits - np.logaddexp(0, logits)).sum(1) - (w**2).sum(1) / 2 / 1.5**2
    log_density -= np.log(2 * np.pi * 1.5**2)
    share = np.exp(log_density - log_density.max())
    cell = (side[1] - side[0]) ** 2
    assert abs(evidence - log_density.max() - np.log(share.sum() * cell)) < 0.05
    share /= share.sum()
    mean = share @ w
    sd = np.sqrt(share @ (w - mean) ** 2)
    now = posterior.diagnostics.earlier.now
    # four standard errors of 6,000 draws
    assert np.abs((now.mean - mean) / sd).max() < 0.05
    assert np.abs(now.sd / sd - 1).max() < 0.04
    assert "the last 2 batches are kept" in posterior.report()
    # another shape cannot be kept with them
    other = posterior.update(X[:30], y[:30]).diagnostics.earlier
    assert (other.num_kept, len(other.replaced)) == (0, 1)


def test_errors_of_draws_do_not_add_up():
    x = np.random.default_rng(3).normal(size=(6, 10, 2))
    y = x @ [1.0, -2.0]
    posterior = vijax.fit(regression, x[0], y[0], progress_bar=False)
    for i in range(1, 6):
        posterior = posterior.update(x[i], y[i])
    flat = x.reshape(-1, 2)
    covariance = np.linalg.inv(np.eye(2) / 4 + flat.T @ flat)
    mean = covariance @ flat.T @ y.ravel()
    sd = np.sqrt(np.diag(covariance))
    now = posterior.diagnostics.earlier.now
    assert np.abs(now.mean - mean).max() < 0.01 * sd.min()
    assert np.abs(now.sd / sd - 1).max() < 0.005


def test_labels_are_those_of_the_earlier_fit():
    frame = pd.DataFrame({"store": list("ab" * 5), "y": Y[:10]})

    def stores(frame):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(theta[frame["store"]], 1.0), obs=frame["y"])

    posterior = vijax.fit(stores, frame, progress_bar=False)
    posterior.update(frame)  # the same labels
    other = frame.assign(store=list("cb" * 5))
    with pytest.raises(vijax.VijaxError, match=r"'a', 'b'.*pandas.Categorical"):
        posterior.update(other)


def test_an_approximate_posterior_makes_no_certified_one():
    first, second, third = PARTS
    few = {"guide": "fullrank", "num_steps": 5, "progress_bar": False}
    posterior = vijax.fit(regression, X[first], Y[first], **few)
    assert posterior.status in ("approximate", "failed")
    for rows, forgetting in ((second, 0.9), (third, 1.0)):
        posterior = posterior.update(X[rows], Y[rows], forgetting=forgetting)
        assert posterior.status == "approximate"
        assert "that took the place of earlier data was approximate" in posterior.report()


def square(y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(w**2, 2.0), obs=y)


def test_two_modes_are_not_passed_on_as_a_normal_distribution():
    y = 4 + 2 * np.random.default_rng(2).normal(size=(2, 20))
    posterior = vijax.fit(square, y[0], progress_bar=False)
    kept = posterior.update(y[1])
    draws = kept.sample(4000)["w"]
    assert kept.diagnostics.earlier.num_kept == 1
    assert 0.45 < (draws > 0).mean() < 0.55
    forgotten = posterior.update(y[1], forgetting=0.9)
    assert forgotten.status not in ("certified", "corrected")
    assert "has several modes" in forgotten.report() or "far from normal" in forgotten.report()


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
    named = {"groups": list("abcdefgh")}
    posterior = vijax.fit(groups, y[:, :8], coords=named, progress_bar=False)
    assert "theta[c]" in posterior.update(y[:, :8]).summary().index
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
        replaced = Replaced(*(np.array([one]) for one in (mean, sd, skewness, 0.0)), 1e12)
        now = Replaced(*(np.array([one]) for one in (*approximate, 0.0, 0.0)), 1e12)
        (error,) = EarlierData(("z",), 1, 0, (replaced,), now, now, now.sd[:, None] ** 2).error
        actual = abs(approximate[0] - true[0]) / true[1]
        assert 0.6 * actual < error / 2 < 1.6 * actual


def moments(z, density):
    share = density / density.sum()
    mean = share @ z
    return mean, np.sqrt(share @ (z - mean) ** 2)
