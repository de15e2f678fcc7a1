"""Expectation propagation against closed forms, published values and sums over grids."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import log_ndtr, ndtr
from scipy.stats import multivariate_normal, norm

import vijax
from tests.fitting.test_recompilation import compilations
from vijax.contracts import Batch, Variables
from vijax.engine.initialization import origin
from vijax.guides import FullRank
from vijax.model import split_and_build
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.keys import as_key
from vijax.solvers.block_updates import double_precision
from vijax.solvers.expectation_propagation.hyperparameters import Evidence
from vijax.solvers.expectation_propagation.hyperparameters import fit as fit_hyperparameters
from vijax.solvers.expectation_propagation.propagation import Propagation
from vijax.solvers.expectation_propagation.sweeps import Options
from vijax.solvers.gaussians.conversion import from_params

EP = "expectation_propagation"


def fit(model, *args, **options):
    algorithm = vijax.ExpectationPropagation(**options)
    return vijax.fit(model, *args, algorithm=algorithm, progress_bar=False)


def moments(posterior):
    """Mean, standard deviations, and the log evidence."""
    sd = np.sqrt(np.diag(posterior.covariance()))
    return np.asarray(posterior.params.loc), sd, posterior.log_evidence(EP).value


def solved(model, *args, **options):
    """The same of a solution by itself, without the checks of a fit."""
    _, data, target = split_and_build(model, args, {}, None)
    params = FullRank().host_init(target.space, jax.device_get(origin(target.space)))
    solver = vijax.ExpectationPropagation(**options)
    batch = Batch(data)
    found = solver.solve(as_key(0), target, FullRank(), Variables(params), batch)
    assert found.converged
    gaussian = from_params(found.variables.guide, target.space)
    return gaussian.mean, gaussian.sd, found.sites.log_evidence


def clutter(y):
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    parts = dist.Normal(jnp.stack([x, 0 * x]), jnp.sqrt(jnp.array([1.0, 10.0])))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), parts), obs=y)


@pytest.fixture(scope="module")
def cluttered():
    return fit(clutter, np.array([0.1, 2.3]))


def test_clutter(cluttered):
    """Values of Infer.NET's `MixtureTests.ClutterTest`; some sites have negative precision."""
    mean, sd, log_evidence = moments(cluttered)
    np.testing.assert_allclose(log_evidence, -5.12942, atol=1e-5)
    np.testing.assert_allclose(mean, 0.789959, atol=1e-5)
    np.testing.assert_allclose(sd**2, 40.1263, atol=1e-4)


def test_the_report_says_what_the_evidence_is(cluttered):
    assert str(cluttered.log_evidence(EP)) == "-5.129 ± 0 nats (approximation, not a bound)"
    report = cluttered.report()
    assert "by expectation propagation: -5.1294 nats, an approximation and not a bound" in report
    assert "y: 2 sites of one projection each" in report
    assert cluttered.elbo < cluttered.diagnostics.ep_log_evidence


def test_a_file_keeps_the_evidence(cluttered, tmp_path):
    cluttered.save(tmp_path / "p.vijax")
    loaded = vijax.load(tmp_path / "p.vijax", clutter, np.array([0.1, 2.3]))
    assert loaded.log_evidence(EP) == cluttered.log_evidence(EP)
    assert loaded.diagnostics.plan == cluttered.diagnostics.plan
    draws = loaded.predict(np.zeros(2), num_draws=10, rng_key=1)["y"]
    np.testing.assert_array_equal(
        draws, cluttered.predict(np.zeros(2), num_draws=10, rng_key=1)["y"]
    )


BETA, MARGIN = 25 / 6, norm.ppf(0.55) * np.sqrt(2) * 25 / 6  # a tenth of the games are draws


def skills():
    with numpyro.plate("players", 2):
        return numpyro.sample("skill", dist.Normal(25.0, np.hypot(25 / 3, 25 / 300)))


def one_game(winner, loser):
    skill = skills()
    gap = skill[winner] - skill[loser] - MARGIN
    numpyro.factor("game", log_ndtr(gap / (np.sqrt(2) * BETA)))


def one_game_by_performance(winner, loser):
    """The same, with performances as latent sites and a likelihood that is a step."""
    skill = skills()
    ahead = numpyro.sample("ahead", dist.Normal(skill[winner], BETA))
    behind = numpyro.sample("behind", dist.Normal(skill[loser], BETA))
    numpyro.factor("game", jnp.where(ahead - behind > MARGIN, 0.0, -jnp.inf))


@pytest.mark.slow
def test_trueskill():
    """Values of several implementations of Herbrich, Minka and Graepel, 2006."""
    posterior = fit(one_game_by_performance, np.array(0), np.array(1))
    spread = np.sqrt(2 * BETA**2 + 2 * (25 / 3) ** 2 + 2 * (25 / 300) ** 2)
    mean, sd, log_evidence = moments(posterior)
    np.testing.assert_allclose(mean[:2], [29.3958317, 20.6041683], rtol=1e-6)
    np.testing.assert_allclose(sd[:2], 7.1714758, rtol=1e-6)
    np.testing.assert_allclose(log_evidence, norm.logcdf(-MARGIN / spread), atol=1e-7)
    # there is no variational bound of a step, and a posterior all the same
    assert posterior.elbo == -np.inf
    assert posterior.status == "corrected"


@pytest.mark.slow
def test_trueskill_with_performances_integrated_out():
    mean, sd, _ = solved(one_game, np.array(0), np.array(1))
    np.testing.assert_allclose(mean, [29.3958317, 20.6041683], rtol=1e-6)
    np.testing.assert_allclose(sd, 7.1714758, rtol=1e-6)


def probit(sd, y):
    with numpyro.plate("rows", len(y)):
        f = numpyro.sample("f", dist.Normal(0.0, sd))
        numpyro.sample("y", dist.Bernoulli(probs=ndtr(f)), obs=y)


def test_independent_probit_sites_are_exact_and_compile_once():
    """Where the mean-field of variational inference has 62 to 99 % of the standard deviation."""
    solved(probit, np.ones(2), np.array([1, 0]))
    scale = np.sqrt([25.0, 400.0])
    with compilations() as compiled:
        mean, sd, log_evidence = solved(probit, scale, np.array([1, 1]))
    assert compiled == []
    np.testing.assert_allclose(log_evidence, -2 * np.log(2), atol=1e-8)
    exact = scale**2 * np.sqrt(2 / np.pi / (1 + scale**2))
    np.testing.assert_allclose(mean, exact, rtol=1e-6)
    np.testing.assert_allclose(sd, np.sqrt(scale**2 - exact**2), rtol=1e-6)
    np.testing.assert_allclose(sd, [3.114, 12.08], atol=3e-3)


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.5, 2.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 0.7).to_event(1), obs=y)


@pytest.mark.parametrize(
    "shape",
    [pytest.param((6, 2), marks=pytest.mark.slow), (3, 5)],
    ids=["more rows", "more elements"],
)
def test_normal_likelihoods_are_exact_for_any_power(shape):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32)
    mean, sd, log_evidence = solved(regression, x, y, power=0.6, damping=1.0)
    covariance = np.linalg.inv(np.eye(shape[1]) / 4 + x.T @ x / 0.49)
    np.testing.assert_allclose(mean, covariance @ (0.125 + x.T @ y / 0.49), atol=2e-5)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance)), rtol=2e-5)
    marginal = multivariate_normal(0.5 * x.sum(1), 4 * x @ x.T + 0.49 * np.eye(shape[0]))
    np.testing.assert_allclose(log_evidence, marginal.logpdf(y), atol=1e-5)


def one_by_one(rows, signs, prior_sd, sweeps=25):
    """Probit regression by rank-one updates of one site at a time, in closed form."""
    num, dim = rows.shape
    t, h = np.zeros(num), np.zeros(num)
    prior = np.eye(dim) / prior_sd**2
    log_z = np.zeros(num)
    for _ in range(sweeps):
        for n, (a, sign) in enumerate(zip(rows, signs, strict=True)):
            covariance = np.linalg.inv(prior + rows.T @ (t[:, None] * rows))
            v, m = a @ covariance @ a, a @ covariance @ (rows.T @ h)
            c, g = 1 / v - t[n], m / v - h[n]
            mean, variance = g / c, 1 / c
            z = sign * mean / np.sqrt(1 + variance)
            ratio = norm.pdf(z) / norm.cdf(z)
            new_mean = mean + sign * variance * ratio / np.sqrt(1 + variance)
            new_variance = variance - variance**2 * ratio * (z + ratio) / (1 + variance)
            t[n], h[n] = 1 / new_variance - c, new_mean / new_variance - g
            log_z[n] = norm.logcdf(z) + 0.5 * np.log(1 + t[n] / c)
            log_z[n] += 0.5 * (g**2 / c - (g + h[n]) ** 2 / (c + t[n]))
    precision = prior + rows.T @ (t[:, None] * rows)
    mean = np.linalg.solve(precision, rows.T @ h)
    half = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(prior)[1]
    log_evidence = log_z.sum() - 0.5 * half + 0.5 * mean @ precision @ mean
    return mean, np.sqrt(np.diag(np.linalg.inv(precision))), log_evidence


def probit_regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(probs=ndtr(x @ w)), obs=y)


@pytest.mark.slow
def test_parallel_sweeps_end_where_single_updates_do():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=20) > 0).astype(int)
    found = solved(probit_regression, x, y)
    for one, other in zip(found, one_by_one(x, 2 * y - 1, 5.0), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_many_rows_take_few_sweeps():
    """Their first Gaussian is not where likelihoods are flat."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 10)).astype(np.float32)
    y = (x @ np.linspace(-1, 1, 10) + rng.normal(size=3000) > 0).astype(int)
    assert fit(probit_regression, x, y).diagnostics.num_gradient_evaluations < 20


def truncated(low, high):
    """A correlated pair, of which the first is in an interval far out."""
    z = numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1, 0.8], [0.8, 1]])))
    numpyro.factor("inside", jnp.where((z[0] > low) & (z[0] < high), 0.0, -jnp.inf))


@pytest.mark.slow
def test_truncation_is_exact():
    low, high = 2.5, 2.75
    mean, sd, log_evidence = solved(truncated, np.array(low), np.array(high))
    grid = low + (high - low) * (np.arange(20000) + 0.5) / 20000
    weight = norm.pdf(grid) / norm.pdf(grid).sum()
    first = weight @ grid
    variance = weight @ (grid - first) ** 2
    np.testing.assert_allclose(log_evidence, np.log(norm.cdf(high) - norm.cdf(low)), atol=1e-7)
    np.testing.assert_allclose(mean, [first, 0.8 * first], rtol=1e-6)
    np.testing.assert_allclose(sd**2, [variance, 0.36 + 0.64 * variance], rtol=1e-5)


def ranking():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("order", jnp.where(jnp.diff(z) > 0, 0.0, -jnp.inf))


@pytest.mark.slow
def test_a_ranking_is_close():
    """Of three the middle one is symmetric, and each order has probability 1/6."""
    mean, _, log_evidence = solved(ranking)
    assert abs(log_evidence - np.log(1 / 6)) < 0.01
    np.testing.assert_allclose(mean, [-0.8463, 0.0, 0.8463], atol=0.01)  # order statistics


def process(x, y):
    """Classification with a Gaussian process of unknown length scale and amplitude."""
    length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))
    amplitude = numpyro.sample("amplitude", dist.LogNormal(1.0, 1.0))
    square = (x[:, None] - x[None]) ** 2 / length**2
    factor = jnp.linalg.cholesky(jnp.exp(-0.5 * square) + 1e-3 * jnp.eye(len(x)))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(probs=ndtr(amplitude * factor @ z)).to_event(1), obs=y)


@pytest.mark.slow
def test_hyperparameters_are_at_the_mode_of_the_evidence():
    """The gradient is that of the evidence, by differences of converged runs."""
    x = np.linspace(0.0, 5.0, 8).astype(np.float32)
    y = (np.sin(2.5 * x) > 0).astype(int)
    _, data, target = split_and_build(process, (x, y), {}, None)
    plan = target.functions.projection_plan(())
    with jax.enable_x64(True):
        batch = double_precision(Batch(data))
        run = Propagation(Options(1.0, 10, 1e-8, 0.8), 1000, target, plan, batch)
        evidence, at = Evidence(run), np.array([-0.5, 0.8])
        slope = evidence.at(at)[1]
        for step, found in zip(1e-3 * np.eye(2), slope, strict=True):
            ahead, before = (evidence.at(at + sign * step)[0] for sign in (1, -1))
            np.testing.assert_allclose(found, (ahead - before) / 2e-3, rtol=1e-5)
        fitted = fit_hyperparameters(run, at)
        mode = fitted.gaussian.mean[:2]
        value, slope = evidence.at(mode)
        steps = [0.1 * d for d in (*np.eye(2), *-np.eye(2))]
        higher = np.array([evidence.at(mode + d)[0] - value for d in steps])
    assert fitted.converged
    np.testing.assert_allclose(slope, 0.0, atol=1e-3)
    # Laplace's method: the curvature is that of the evidence
    covariance = fitted.gaussian.covariance[:2, :2]
    bends = -np.diag(np.linalg.inv(covariance)) * 0.1**2
    np.testing.assert_allclose(higher[:2] + higher[2:], bends, rtol=0.02)
    laplace = value + np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(fitted.log_evidence, laplace, atol=1e-6)


def impossible(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("never", jnp.where((z > y) & (z < y - 1), 0.0, -jnp.inf))


def two_directions(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(z[0] * jnp.exp(z[1]), 1.0), obs=y)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("vijax.solvers.expectation_propagation.solver._LARGEST", 11)
    with pytest.raises(GuideError, match=r"got 3 dimensions \(z\) and 4 sites. Use guide='auto'"):
        solved(regression_of_z, np.ones((4, 3)))
    monkeypatch.undo()
    solved(regression_of_z, np.ones((4, 3)))


def regression_of_z(x):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("seen", -0.5 * (x @ z) ** 2)


def test_what_does_not_apply_is_named():
    with pytest.raises(ModelError, match="'never': expected a likelihood that is positive"):
        solved(impossible, np.array(1.0))
    with pytest.raises(GuideError, match="'y' to depend on one linear combination"):
        solved(two_directions, np.array(1.0))
    with pytest.raises(GuideError, match=r"expected 'fullrank' .* got MeanField"):
        vijax.fit(two_directions, np.array(1.0), guide="meanfield", algorithm=EP)
    with pytest.raises(GuideError, match=r"hyperparameters: expected latent sites, got .'w'"):
        solved(two_directions, np.array(1.0), hyperparameters="w")
    for name in ("power", "damping"):
        with pytest.raises(ValueError, match=f"{name}: expected a number above 0 and up to 1"):
            vijax.ExpectationPropagation(**{name: 1.5})


@pytest.mark.slow
def test_arrays_of_double_precision_from_elsewhere_are_an_error_with_a_remedy():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=30)
    squares, waves = np.arange(1.0, 5.0) ** 2, np.cos(np.arange(1, 5) * x[:, None])

    def model(y):
        length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))
        scale = jnp.exp(-0.25 * length**2 * squares)
        w = numpyro.sample("w", dist.Normal(0.0, scale).to_event(1))
        with numpyro.plate("rows", 30):
            numpyro.sample("y", dist.Bernoulli(logits=waves @ w), obs=y)

    with pytest.raises(vijax.ModelError, match="Pass it as an argument"):
        vijax.fit(model, (x > 0).astype(int), algorithm="expectation_propagation")
