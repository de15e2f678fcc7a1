"""Evidence of rows and use of latents of linear Gaussian models, where both are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx

import vijax
from tests.groups import PRECISION, Encoder, data, groups, hierarchy
from vijax import GuideError, ModelError
from vijax.contracts import Batch, Variables
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.guides import Amortized, AmortizedDiscrete, TopDown, discrete_guide_sites, resolve
from vijax.model import split_and_build
from vijax.posterior import refinement, row_evidence
from vijax.posterior.finish import finish_initial
from vijax.posterior.latents import measured

RNG = np.random.default_rng(0)
LOADINGS = np.array([[1.5, -0.7, 0.3, 0.0], [0.0, 0.8, 1.2, 0.0]], np.float32)
X = (RNG.normal(size=(300, 2)) @ LOADINGS + RNG.normal(size=(300, 4))).astype(np.float32)
COVARIANCE = LOADINGS.T @ LOADINGS + np.eye(4)
POSTERIOR = np.linalg.inv(LOADINGS @ LOADINGS.T + np.eye(2))  # covariance of z given x
MEANS = X @ LOADINGS.T @ POSTERIOR
EVIDENCE = np.asarray(dist.MultivariateNormal(jnp.zeros(4), COVARIANCE).log_prob(X))
WRONG = 0.5 * LOADINGS.T @ POSTERIOR, 1.5 * np.diag(POSTERIOR) ** 0.5


def unfitted(model, guide, *args):
    """The result of a fit that ended before its first step."""
    sampled = discrete_guide_sites(guide)
    arguments, arrays, target = split_and_build(model, args, {}, None, sampled)
    guide = resolve(guide, target, model, arguments)
    problem = Problem(model, arguments, target, guide, Batch(arrays), jax.random.key(0))
    params = guide.init(jax.random.key(0), target.space, origin(target.space))
    return finish_initial(problem, Variables(params), {}, 0.0)


def factors(x, loadings):
    """Probabilistic PCA with two factors."""
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


@pytest.fixture(scope="module")
def start():
    guide = Amortized(Linear, "x", init_scale=1.0)
    return unfitted(factors, guide, X[:6], LOADINGS)


def with_params(result, params):
    variables = result.variables._replace(guide=params)
    return vijax.Posterior(dataclasses.replace(result, variables=variables))


def encoded(start, kernel, scales):
    """A posterior whose encoder has locations `x @ kernel` and these scales."""
    layer = {
        "kernel": jnp.asarray(np.concatenate([kernel, np.zeros((4, 2))], 1), jnp.float32),
        "bias": jnp.asarray(np.concatenate([np.zeros(2), np.log(scales)]), jnp.float32),
    }
    return with_params(start, start.params._replace(encoder={"layer": layer}, gate=jnp.ones(2)))


@pytest.fixture(scope="module")
def wrong(start):
    return encoded(start, *WRONG)


def test_the_evidence_of_rows_is_that_of_the_closed_form(wrong, monkeypatch):
    monkeypatch.setattr(row_evidence, "_HOST_ELEMENTS", 2000 * 128)  # blocks of 128, 128 and 44
    found = wrong.log_evidence_rows(X, LOADINGS, num_draws=2000)
    errors = (found.values - EVIDENCE) / found.se
    assert np.abs(errors).max() < 5
    assert 0.85 < errors.std() < 1.15  # standard errors are neither too small nor too large
    assert abs(found.mean - found.bias - EVIDENCE.mean()) < 5 * found.mean_se
    assert found.mean == pytest.approx(found.values.mean())
    assert found.mean_se == pytest.approx(np.sqrt(np.sum(found.se**2)) / len(X), rel=0.1)


def test_the_bias_falls_with_the_number_of_draws(wrong):
    """`KL(q || p)` with one draw, then by `-se^2 / 2`."""
    one = wrong.log_evidence_rows(X, LOADINGS, num_draws=1)
    kernel, scales = WRONG
    kl = _divergence(X @ kernel, np.diag(scales**2), MEANS, POSTERIOR)
    gap = one.values - EVIDENCE
    assert abs(gap.mean() + kl.mean()) < 5 * gap.std() / len(X) ** 0.5
    assert np.isinf(one.se).all()
    some = wrong.log_evidence_rows(X, LOADINGS, num_draws=3)
    assert -kl.mean() + 5 * some.mean_se < some.mean - EVIDENCE.mean() < -5 * some.mean_se


def test_refined_rows_have_the_largest_bound_of_their_family(wrong, monkeypatch):
    """Of independent normal latents: variances `1 / precision_ii` at the posterior means."""
    monkeypatch.setattr(row_evidence, "_HOST_ELEMENTS", 500 * 128)  # blocks of 128, 128 and 44
    precision = np.linalg.inv(POSTERIOR)
    best = np.diag(1 / np.diag(precision))
    correlation = precision[0, 1] * np.sqrt(best[0, 0] * best[1, 1])  # log weights have this sd

    def error(num_steps):
        found = wrong.log_evidence_rows(X, LOADINGS, num_draws=500, refine_steps=num_steps)
        return found, found.bounds - EVIDENCE + _divergence(MEANS, best, MEANS, POSTERIOR)

    kernel, scales = WRONG
    before, gap = error(None)
    lost = _divergence(X @ kernel, np.diag(scales**2), MEANS, POSTERIOR)
    assert lost.mean() > 0.5
    expected = _divergence(MEANS, best, MEANS, POSTERIOR) - lost
    assert abs(np.mean(gap - expected)) < 5 * np.std(gap - expected) / len(X) ** 0.5
    after, gap = error(200)
    np.testing.assert_allclose(gap, 0, atol=5 * abs(correlation) / 500**0.5 + 0.02)
    assert -0.01 < gap.mean() < 5 * abs(correlation) / (500 * len(X)) ** 0.5
    assert after.ess.mean() > 1.2 * before.ess.mean()
    np.testing.assert_array_less(np.abs(after.values - EVIDENCE), 5 * after.se + 1e-4)


def test_steps_that_lower_the_bound_of_a_row_are_undone(wrong, monkeypatch):
    def moved(params, *_):
        return params._replace(loc={"z": params.loc["z"] + 9.0})

    monkeypatch.setattr(refinement, "_moved", moved)
    found = wrong.log_evidence_rows(X, LOADINGS, num_draws=5, refine_steps=1)
    same = wrong.log_evidence_rows(X, LOADINGS, num_draws=5)
    np.testing.assert_array_equal(found.values, same.values)


def _divergence(loc, covariance, mean, other):
    """KL of normal distributions, by row."""
    shift = np.einsum("ri,ij,rj->r", loc - mean, np.linalg.inv(other), loc - mean)
    dets = np.linalg.slogdet(other)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(np.linalg.solve(other, covariance)) + shift - len(other) + dets)


@pytest.mark.slow
def test_latents_that_rows_share_are_averaged_over():
    """The estimate is of `p(x_i | mu)` under `q(mu)`, the same draws of `mu` for all rows."""
    guide = {"theta": Amortized(Encoder, "y", init_scale=PRECISION**-0.5), ...: "meanfield"}
    y = data(30) + 6
    result = unfitted(hierarchy, guide, y)
    mean_field, encoder = result.params
    kernel = np.full((3, 2), 1 / PRECISION) * [1, 0]
    layer = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(2)}
    sd = 0.3
    params = (
        mean_field._replace(loc={"mu": jnp.zeros(())}, log_scale={"mu": jnp.log(sd)}),
        encoder._replace(encoder={"layer": layer}),
    )
    found = with_params(result, params).log_evidence_rows(num_draws=4000)
    covariance = (4 + sd**2) * np.ones((3, 3)) + np.eye(3)
    exact = np.asarray(dist.MultivariateNormal(jnp.zeros(3), covariance).log_prob(y))
    np.testing.assert_array_less(np.abs(found.values - exact), 5 * found.se)
    independent = np.sqrt(np.sum(found.se**2)) / len(y)
    assert found.mean_se > 3 * independent
    assert abs(found.mean - exact.mean()) < 5 * found.mean_se
    wide = (params[0], params[1]._replace(encoder={"layer": layer | {"bias": jnp.array([3.0, 0])}}))
    before, after = (
        with_params(result, wide).log_evidence_rows(num_draws=4000, refine_steps=num_steps)
        for num_steps in (None, 100)
    )
    assert before.bounds.mean() < exact.mean() - 3
    np.testing.assert_array_less(np.abs(after.values - exact), 5 * after.se)
    assert after.bounds.mean() > found.bounds.mean() - 0.05


def test_the_use_of_latents_is_that_of_the_closed_form(start):
    """With the exact posterior where one unit is seen with noise and the other not at all."""
    x = (RNG.normal(size=(2000, 4)) * [1.25**0.5, 1, 1, 1]).astype(np.float32)
    kernel, scales = np.zeros((4, 2)), np.array([0.8**0.5, 1.0])
    kernel[0, 0] = 0.4
    loadings = np.zeros((2, 4), np.float32)
    loadings[0, 0] = 0.5
    posterior = encoded(start, kernel, scales).at(x, loadings)
    found = posterior.latents(num_rows=1000)
    variance = 0.25 / 1.25  # of the mean of the first over rows
    np.testing.assert_allclose(
        found.activity, [variance, 0.0], atol=5 * variance * (2 / 1000) ** 0.5
    )
    divergence = 0.5 * np.log(1.25)  # the information: KL(q(z) || p(z)) is zero
    assert abs(found.divergence - divergence) < 5 * found.divergence_se
    np.testing.assert_allclose(found.divergences, [found.divergence, 0.0], atol=1e-6)
    assert abs(found.information - divergence) < 5 * found.information_se
    assert 0 < found.information_se < 0.03
    assert abs(found.marginal_divergence) < 0.02
    assert (found.active, found.num_rows, found.collapsed) == (1, 1000, False)
    line = "latents: 1 of 2 units active, I(rows, z) = 0.1 nats (at most 6.9 can be seen with 1,000"
    assert line in posterior.report()


def test_a_collapsed_posterior_is_reported(start):
    posterior = encoded(start, np.zeros((4, 2)), np.ones(2)).at(X[:50], LOADINGS)
    found = posterior.latents()
    assert (found.active, found.collapsed, found.num_rows) == (0, True, 50)
    np.testing.assert_allclose([found.divergence, found.information], 0, atol=1e-6)
    assert "divergence 0.00 nats a row: collapsed" in posterior.report()
    assert "FreeBits" in posterior.report()


def test_measures_of_encodings():
    """Information is bounded by the number of rows; of other priors, divergences are by draws."""
    loc, scale = MEANS[:20], np.full((20, 2), 1e-3)
    z = loc + scale * RNG.normal(size=(2000, 20, 2))
    log_prior = np.sum(-0.5 * (z - 0.5) ** 2 - 0.5 * np.log(2 * np.pi), axis=-1)
    by_draws = measured((loc, np.log(scale), z, log_prior), None)
    assert by_draws.information == pytest.approx(np.log(20), abs=1e-3)
    assert by_draws.information <= by_draws.max_information
    known = measured((loc, np.log(scale), z, log_prior), (np.full((20, 2), 0.5), np.ones((20, 2))))
    assert by_draws.divergence == pytest.approx(known.divergence, rel=0.01)
    assert np.isnan(by_draws.divergences).all()
    exact = _divergence(loc, 1e-6 * np.eye(2), np.full((20, 2), 0.5), np.eye(2))
    assert known.divergence == pytest.approx(exact.mean())


def labeled(x):
    with numpyro.plate("rows", len(x)):
        label = numpyro.sample("label", dist.Bernoulli(0.3))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        loc = z @ LOADINGS + label[..., None]
        numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def coupled(x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.factor("all", -0.5 * jnp.sum((x - z @ LOADINGS) ** 2))


def test_what_cannot_be_computed_is_refused():
    other = vijax.Posterior(unfitted(groups, "meanfield", data(9)))
    with pytest.raises(GuideError, match=r"log_evidence_rows: .*Amortized"):
        other.log_evidence_rows(num_draws=2)
    assert other.diagnostics.latents is None
    shared = vijax.Posterior(unfitted(coupled, Amortized(Linear, "x"), X[:5]))
    with pytest.raises(ModelError, match=r"independent .* got the term 'all'.*outside of plate"):
        shared.log_evidence_rows(num_draws=2)
    marginalized = vijax.Posterior(unfitted(labeled, Amortized(Linear, "x"), X[:5]))
    with pytest.raises(ModelError, match=r"no discrete sites that are marginalized.*AmortizedDis"):
        marginalized.log_evidence_rows(num_draws=2)


def test_only_gaussian_latents_are_refined():
    posterior = vijax.Posterior(unfitted(binary, AmortizedDiscrete(Logits, "x"), X[:60]))
    with pytest.raises(GuideError, match=r"refine_steps: expected guides.Amortized .*Discrete"):
        posterior.log_evidence_rows(num_draws=2, refine_steps=3)
    levels = vijax.Posterior(unfitted(factors, TopDown({"z": Linear}, "x"), X[:5], LOADINGS))
    with pytest.raises(GuideError, match=r"refine_steps: expected guides.Amortized .*TopDown"):
        levels.log_evidence_rows(num_draws=2, refine_steps=3)


def standardized(x, loadings):
    """A model that cannot be run on some of its rows."""
    factors((x - x.mean(0)) / x.std(0), loadings)


@pytest.mark.slow
def test_rows_that_depend_on_others_are_not_in_blocks(monkeypatch):
    monkeypatch.setattr(row_evidence, "_HOST_ELEMENTS", 10 * 500)
    result = unfitted(standardized, Amortized(Linear, "x", init_scale=1.0), X[:60], LOADINGS)
    found = encoded(result, *WRONG).log_evidence_rows(num_draws=500)
    scaled = (X[:60] - X[:60].mean(0)) / X[:60].std(0)
    exact = dist.MultivariateNormal(jnp.zeros(4), COVARIANCE).log_prob(scaled)
    np.testing.assert_array_less(np.abs(found.values - exact) / found.se, 5)


class Logits(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


def binary(x):
    with numpyro.plate("rows", len(x)):
        h = numpyro.sample("h", dist.Bernoulli(0.4).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(h @ LOADINGS, 1.0).to_event(1), obs=x)


@pytest.mark.slow
def test_discrete_latents_of_rows():
    posterior = vijax.Posterior(unfitted(binary, AmortizedDiscrete(Logits, "x"), X[:60]))
    found = posterior.log_evidence_rows(num_draws=2000)
    values = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    prior = values.sum(1) * np.log(0.4) + (2 - values.sum(1)) * np.log(0.6)
    likelihood = dist.Normal((values @ LOADINGS)[:, None], 1.0).log_prob(X[:60]).sum(-1)
    exact = np.logaddexp.reduce(prior[:, None] + np.asarray(likelihood))
    np.testing.assert_array_less(np.abs(found.values - exact) / found.se, 5)
    with pytest.raises(GuideError, match="expected continuous latents"):
        posterior.latents()
