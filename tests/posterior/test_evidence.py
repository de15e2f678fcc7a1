"""Log evidence, lower and upper bounds on it, comparison of models."""

import functools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import vijax
from tests import targets
from vijax.runtime.errors import GuideError, VijaxError

CONJUGATE = ["normal_mean", "regression", "beta_binomial", "gamma_poisson"]


@functools.cache
def fitted(name, guide):
    problem = targets.problem(name)
    return vijax.fit(problem.model, *problem.args, guide=guide, progress_bar=False)


@pytest.mark.parametrize("guide", ["meanfield", "fullrank"])
@pytest.mark.parametrize("name", CONJUGATE)
def test_the_evidence_is_bracketed_and_estimated(name, guide):
    posterior, exact = fitted(name, guide), targets.problem(name).log_evidence
    slack = 1e-3  # of float32
    estimate = posterior.log_evidence()
    assert abs(estimate.value - exact) < 5 * estimate.se + slack
    elbo = posterior.log_evidence("elbo")
    lower, upper = posterior.log_evidence("bracket")
    assert elbo.value < exact + 5 * elbo.se + slack
    assert lower.value < exact + 5 * lower.se + slack
    assert upper.value > exact - 5 * upper.se - slack
    assert elbo.value <= lower.value + 1e-6  # the same draws
    assert estimate.value <= upper.value + 1e-6
    assert (estimate.kind, lower.kind, upper.kind) == ("estimate", "lower bound", "upper bound")


def test_bounds_of_an_inaccurate_guide():
    """A mean-field guide of a correlated Gaussian, for which all bounds are closed forms."""
    problem = targets.problem("regression")
    posterior = fitted("regression", "meanfield")
    precision = np.linalg.inv(problem.z_covariance)
    guide = np.diag(np.diag(posterior.covariance()))
    delta = np.asarray(posterior.guide.mean(posterior.params, posterior.space))
    delta = delta - problem.z_mean
    _, log_p = np.linalg.slogdet(precision)
    _, log_q = np.linalg.slogdet(guide)
    kl = 0.5 * (np.trace(precision @ guide) + delta @ precision @ delta - 3 - log_p - log_q)
    elbo = posterior.log_evidence("elbo", num_draws=20_000)
    assert abs(elbo.value - problem.log_evidence + kl) < 5 * elbo.se
    # E_q[w^2]: a Gaussian integral with precision 2 P - Q
    inner = 2 * precision - np.linalg.inv(guide)
    chi = log_p + 0.5 * log_q - 0.5 * np.linalg.slogdet(inner)[1]
    shift = np.linalg.inv(guide) @ delta
    chi += 0.5 * delta @ shift + 0.5 * shift @ np.linalg.solve(inner, shift)
    upper = posterior.log_evidence("cubo", num_draws=20_000)
    assert abs(upper.value - problem.log_evidence - chi / 2) < 5 * upper.se


def test_log_evidence_rejects_invalid_fits_and_arguments():
    problem = targets.problem("normal_mean")
    with pytest.raises(GuideError, match="guide with a density"):
        vijax.fit(problem.model, *problem.args, guide="map", progress_bar=False).log_evidence()
    posterior = fitted("normal_mean", "fullrank")
    with pytest.raises(ValueError, match=r"method: expected one of.*bracket"):
        posterior.log_evidence("exact")
    with pytest.raises(ValueError, match="num_particles: expected at most 50, half"):
        posterior.log_evidence("iwae", num_draws=100, num_particles=60)


X = np.linspace(-1, 1, 40).astype(np.float32)
Y = (0.3 + 1.5 * X + 0.5 * np.random.default_rng(0).normal(size=40)).astype(np.float32)


def line(y, slope):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0)) if slope else 0.0
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a + b * X[: len(y)], 0.5), obs=y)


def exact_line(slope):
    """Log evidence, leave-one-out density and number of parameters of a linear model."""
    design = np.stack([np.ones(40), X], 1)[:, : 1 + slope].astype(float)
    covariance = design @ design.T + 0.25 * np.eye(40)
    _, log_det = np.linalg.slogdet(covariance)
    solved = np.linalg.solve(covariance, Y)
    evidence = -0.5 * (40 * np.log(2 * np.pi) + log_det + Y @ solved)
    variance = 1 / np.diag(np.linalg.inv(covariance))
    elpd = norm.logpdf(solved * variance, 0, np.sqrt(variance)).sum()
    posterior = np.linalg.inv(np.eye(design.shape[1]) + design.T @ design / 0.25)
    fitted = design @ posterior @ design.T @ Y / 0.25
    within = norm.logpdf(Y, fitted, np.sqrt(0.25 + np.diag(design @ posterior @ design.T))).sum()
    return evidence, elpd, within - elpd


def test_comparison_of_models():
    fits = {
        name: vijax.fit(line, Y, name == "line", progress_bar=False) for name in ("flat", "line")
    }
    found = vijax.compare(fits)
    assert list(found.index) == ["line", "flat"]
    for name in fits:
        evidence, elpd, num_parameters = exact_line(name == "line")
        row = found.loc[name]
        assert abs(row.log_evidence - evidence) < 5 * row.log_evidence_se + 1e-3
        assert row.elpd == pytest.approx(elpd, abs=0.1)
        assert row.p_loo == pytest.approx(num_parameters, rel=0.05)
        assert row.num_bad_k == 0
    flat, better = found.loc["flat"], found.loc["line"]
    factor = exact_line(False)[0] - exact_line(True)[0]
    assert abs(flat.log_bayes_factor - factor) < 5 * flat.log_bayes_factor_se + 1e-3
    assert better.log_bayes_factor == better.elpd_diff == 0
    assert flat.elpd_diff == pytest.approx(flat.elpd - better.elpd)
    assert better.weight > 0.95
    assert better.weight + flat.weight == pytest.approx(1)
    assert str(found).splitlines()[0].split()[:2] == ["log_evidence", "log_bayes_factor"]
    with pytest.raises(KeyError, match=r"'line' is not a column .* \.loc"):
        found["line"]


def test_models_without_pointwise_likelihoods_are_compared_by_their_evidence():
    """A likelihood in a factor, beside the same model with an observed site."""

    def flat(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.factor("likelihood", dist.Normal(a, 0.5).log_prob(y).sum())

    fits = {
        "factor": vijax.fit(flat, Y, progress_bar=False),
        "line": vijax.fit(line, Y, True, progress_bar=False),
    }
    found = vijax.compare(fits)
    assert list(found.index) == ["line", "factor"]
    exact = {name: exact_line(name == "line")[0] for name in fits}
    for name, row in found.iterrows():
        assert abs(row.log_evidence - exact[name]) < 5 * row.log_evidence_se + 1e-3
    assert found[["elpd", "elpd_diff", "weight"]].isna().all(axis=None)
    assert "No elpd: 'factor' without observed sites" in str(found)


def test_models_without_names_are_refused():
    with pytest.raises(VijaxError, match=r"by name, \{'one': first, .* got list"):
        vijax.compare([])


def test_only_models_of_the_same_data_are_compared():
    fits = {"all": vijax.fit(line, Y, False, progress_bar=False)}
    with pytest.raises(VijaxError, match=r"two or more posteriors, got \['all'\]"):
        vijax.compare(fits)
    fits["half"] = vijax.fit(line, Y[:20], False, progress_bar=False)
    with pytest.raises(VijaxError, match=r"same observations.*'all': 40, 'half': 20"):
        vijax.compare(fits)


def switches(y, on):
    """A discrete value for every row, in the guide instead of marginalized."""
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.Categorical(np.array([0.2, 0.5, 0.3])))
        numpyro.sample("y", dist.Normal(on * k, 1.0), obs=y)


@pytest.mark.slow
def test_comparison_with_a_discrete_site_per_row():
    """A log likelihood of three values has no tail, and ArviZ rejects it."""
    y, num = np.array([-0.5, 1.1, 2.9, 3.2], np.float32), 4000
    fits = {
        on: vijax.fit(switches, y, on, guide="discrete", progress_bar=False) for on in (1.0, 0.5)
    }
    found = vijax.compare({str(on): one for on, one in fits.items()}, num_draws=num)
    for on in fits:
        likelihood = norm.pdf(y[:, None], on * np.arange(3))
        joint = np.array([0.2, 0.5, 0.3]) * likelihood
        marginal = joint.sum(1)
        # by row: the mean over the posterior of 1 / likelihood is 1 / marginal
        variance = (joint / likelihood**2).sum(1) * marginal - 1
        error = np.sqrt(variance.sum() / num)
        row = found[str(on)]
        assert row.elpd == pytest.approx(np.log(marginal).sum(), abs=5 * error + 0.02)
        assert row.num_bad > 0  # no tail, k-hat is infinite
    assert found["1.0"].elpd > found["0.5"].elpd


def test_bridge_sampling_needs_chains():
    with pytest.raises(GuideError, match=r"'bridge' needs .* certified\. Use method='importance'"):
        fitted("normal_mean", "fullrank").log_evidence("bridge")
