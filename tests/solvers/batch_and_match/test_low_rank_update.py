import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import vijax
from tests.solvers import problems
from vijax.guides import LowRank, MeanField
from vijax.solvers import BatchAndMatch
from vijax.solvers.batch_and_match.low_rank_update import low_rank_update
from vijax.solvers.gaussians.dense import whitened
from vijax.solvers.gaussians.low_rank import LowRankGaussian


def spiked_model(basis, weight, scale, mean):
    z = problems.flat("z", mean.size)
    residual = (z - mean) / scale
    numpyro.factor("density", -0.5 * (residual @ residual))
    numpyro.factor("spikes", -0.5 * jnp.sum(weight * (basis.T @ residual) ** 2))


def spiked(dim, rank, seed=0):
    """A Gaussian target of the family, and that Gaussian."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, rank))).Q
    axis_sd = np.linspace(2, 10, rank)
    scale, mean = np.exp(rng.normal(size=dim)), rng.normal(size=dim)
    known = LowRankGaussian(mean, scale, basis, axis_sd)
    arrays = (basis, 1 / axis_sd**2 - 1, scale, mean)
    return problems.case(spiked_model, *(a.astype(np.float32) for a in arrays)), known


def log_evidence(gaussian):
    return 0.5 * len(gaussian.mean) * np.log(2 * np.pi) + gaussian.log_det


def scores(gaussian, points):
    """Scores of a Gaussian, `-covariance^-1 (z - mean)`."""
    return -gaussian.apply_power((points - gaussian.mean) / gaussian.scale, -2) / gaussian.scale


@pytest.mark.parametrize("lam", [0.1, 1e4])
def test_the_target_is_a_fixed_point(lam):
    _, known = spiked(100, 3)
    noise = whitened(np.random.default_rng(0), 16, 100)
    step = low_rank_update(known, noise, scores(known, known.transform(noise)), lam, 3)
    np.testing.assert_allclose(step.gaussian.mean, known.mean)
    np.testing.assert_allclose(step.gaussian.covariance, known.covariance, atol=1e-9)
    assert step.log_det == pytest.approx(0, abs=1e-9)


def test_steps_converge_to_a_target_of_the_family():
    dim = 300
    _, known = spiked(dim, 4)
    rng = np.random.default_rng(0)
    current = LowRankGaussian(np.zeros(dim), np.ones(dim), np.zeros((dim, 0)), np.zeros(0))
    for t in range(120):
        noise = whitened(rng, 32, dim)
        lam = max(4.0, 32 * dim / (t + 1))
        step = low_rank_update(current, noise, scores(known, current.transform(noise)), lam, 4)
        current = step.gaussian
    assert np.abs((current.mean - known.mean) / known.sd).max() < 1e-4
    np.testing.assert_allclose(current.sd, known.sd, rtol=1e-4)
    np.testing.assert_allclose(current.conditional_sd, known.conditional_sd, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, 1e300])
def test_a_step_that_overflows_is_none(bad):
    _, known = spiked(20, 2)
    noise = whitened(np.random.default_rng(0), 8, 20)
    with np.errstate(all="ignore"):
        assert low_rank_update(known, noise, np.full((8, 20), bad), 1.0, 2) is None


FAMILY = [(3, 1, 0), (60, 3, 0), pytest.param(2000, 5, 0, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("dim", "rank", "seed"), FAMILY)
def test_is_exact_on_targets_of_the_family(dim, rank, seed):
    case, known = spiked(dim, rank, seed)
    guide = LowRank(rank=rank)
    variables = case.variables(guide)
    solution = BatchAndMatch().solve(jax.random.key(0), case.target, guide, variables, case.batch)
    assert solution.converged, solution.reason
    assert solution.evaluations < 40_000
    params, space = solution.variables.guide, case.target.space
    # rounding of the scores to float32, in posterior sds
    error = (np.asarray(guide.mean(params, space)) - known.mean) / known.sd
    assert np.abs(error).max() < 2e-3
    fitted = LowRankGaussian(
        known.mean,
        np.exp(np.asarray(params.log_scale, float)),
        *np.linalg.svd(np.asarray(params.factor, float), full_matrices=False)[:2],
    )
    fitted = fitted._replace(axis_sd=np.sqrt(1 + fitted.axis_sd**2))
    np.testing.assert_allclose(fitted.sd, known.sd, rtol=2e-3)
    np.testing.assert_allclose(fitted.conditional_sd, known.conditional_sd, rtol=2e-3)
    np.testing.assert_allclose(-solution.losses[-1], log_evidence(known), atol=0.01)


@pytest.mark.parametrize("guide", [MeanField(), LowRank(rank=1), LowRank(rank=3)])
def test_outside_the_family_diagonal_precisions_match_the_target(guide):
    """Stationarity of the ELBO for a Gaussian target; the diagonal of it."""
    known = problems.gaussian(20, 30.0)
    case = known.case
    variables = case.variables(guide)
    solution = BatchAndMatch().solve(jax.random.key(0), case.target, guide, variables, case.batch)
    params, space = solution.variables.guide, case.target.space
    exact = np.diag(np.linalg.inv(known.covariance))
    precision = np.diag(np.linalg.inv(np.asarray(guide.covariance(params, space), float)))
    # 32 draws per step, averaged over more than a hundred steps
    np.testing.assert_allclose(precision, exact, rtol=0.1)
    assert np.abs((np.asarray(guide.mean(params, space)) - known.mean) / known.sd).max() < 0.02


def grouped(group, size, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", size):
        effect = numpyro.sample("effect", dist.Normal(mu, 1.0))
    with numpyro.plate("rows", len(group)):
        numpyro.sample("y", dist.Normal(effect[group], 0.5), obs=y)


@pytest.mark.slow
def test_many_groups_are_fitted_without_a_gradient_step():
    size, each = 700, 2
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(size), each)
    y = (1.0 + rng.normal(size=size)[group] + 0.5 * rng.normal(size=size * each)).astype("f")
    posterior = vijax.fit(grouped, group, size, y, guide="lowrank", progress_bar=False)
    assert posterior.num_steps == 0
    assert posterior.converged
    # groups are exchangeable: their means are sufficient, with covariance 25 + (1 + 1/8) on
    # the diagonal and 25 off it
    means, within = y.reshape(size, each).mean(axis=1).astype(float), 0.25 / each
    covariance = 25 + (1 + within) * np.eye(size)
    deviation = y.reshape(size, each) - means[:, None]
    log_evidence = multivariate_normal(np.zeros(size), covariance).logpdf(means)
    # given its mean a pair is determined by its difference: density of both over that of the mean
    log_evidence += np.sum(-(deviation**2).sum(axis=1) / 0.5) + size * (
        -0.5 * each * np.log(2 * np.pi * 0.25) + 0.5 * np.log(2 * np.pi * within)
    )
    assert posterior.elbo == pytest.approx(log_evidence, abs=0.1)
    precision = size / (1 + within) + 1 / 25
    mean, sd = np.sum(means) / (1 + within) / precision, precision**-0.5
    draws = posterior.sample(num_draws=4000, corrected=False)["mu"]
    assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(4000) + 0.02 * sd
    assert np.std(draws) == pytest.approx(sd, rel=5 / np.sqrt(2 * 4000) + 0.02)
