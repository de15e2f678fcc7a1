"""Natural-gradient steps: closed forms, agreement with other methods, positive precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from tests.groups import PRECISION, data, groups, hierarchy
from tests.targets import problem
from vijax.algorithms import NaturalGradient
from vijax.algorithms.gaussian_updates import Draws, full_rank_update, mean_field_update
from vijax.contracts import Site, Space
from vijax.guides import FullRank, MeanField
from vijax.guides.location_scale.full_rank import FullRankParams, cholesky_factor
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.runtime.errors import GuideError

DIM = 4
SPACE = Space((Site("z", (DIM,), (DIM,), 1),))
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=DIM)
FACTOR = np.tril(0.4 * RNG.normal(size=(DIM, DIM)), -1) + np.diag([0.6, 1.0, 2.0, 0.9])
START = np.tril(0.2 * RNG.normal(size=(DIM, DIM)), -1) + np.diag([0.5, 0.8, 1.2, 0.8])
# standard normals whose first and second moments are exact
DIRECTIONS = np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0] * np.sqrt(DIM)
NOISE = np.concatenate([DIRECTIONS, -DIRECTIONS])


def full_rank(loc, factor):
    scale = np.diag(factor)
    parts = (loc, np.log(scale), np.tril(factor / scale[:, None], -1))
    return FullRankParams(*(jnp.asarray(part, jnp.float32) for part in parts))


def draws(params, gradient):
    points = np.asarray(params.loc) + NOISE @ np.asarray(cholesky_factor(params)).T
    values = jnp.asarray(gradient(points), jnp.float32)
    return Draws(jnp.asarray(NOISE, jnp.float32), {"z": values})


def logistic(x, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def logistic_data():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(300, 5)) @ (np.eye(5) + 0.3)).astype(np.float32)
    y = rng.random(300) < 1 / (1 + np.exp(-x @ [0.5, -0.4, 0.3, 0.0, 0.2]))
    return x, y.astype(np.float32)


def counts(y):
    level = numpyro.sample("level", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(level[0] + level[1])), obs=y)


def test_a_full_rank_step_of_rate_one_is_exact_on_a_gaussian():
    precision = np.linalg.inv(FACTOR @ FACTOR.T)
    start = full_rank(MEAN + 0.3, START)
    gradient = draws(start, lambda z: -(z - MEAN) @ precision)
    found = full_rank_update(start, SPACE, gradient, jnp.ones(()))
    np.testing.assert_allclose(found.loc, MEAN, atol=2e-6)
    np.testing.assert_allclose(cholesky_factor(found), FACTOR, atol=3e-6)


def test_a_shorter_step_interpolates_natural_parameters():
    target, old = (np.linalg.inv(one @ one.T) for one in (FACTOR, START))
    start = full_rank(MEAN + 0.3, START)
    gradient = draws(start, lambda z: -(z - MEAN) @ target)
    found = full_rank_update(start, SPACE, gradient, jnp.float32(0.3))
    factor = np.asarray(cholesky_factor(found), float)
    precision = np.linalg.inv(factor @ factor.T)
    np.testing.assert_allclose(precision, 0.7 * old + 0.3 * target, rtol=1e-4, atol=1e-5)
    pulled = 0.7 * old @ (MEAN + 0.3) + 0.3 * target @ MEAN
    np.testing.assert_allclose(precision @ np.asarray(found.loc), pulled, rtol=1e-4, atol=1e-5)


def test_a_mean_field_step_of_rate_one_is_exact_on_independent_coordinates():
    sd = np.array([0.6, 1.0, 2.0, 0.9])
    loc, scale = MEAN + 0.3, np.array([0.5, 0.8, 1.2, 0.8])
    start = MeanFieldParams(
        {"z": jnp.asarray(loc, jnp.float32)}, {"z": jnp.log(jnp.asarray(scale, jnp.float32))}
    )
    gradient = jnp.asarray(-(loc + NOISE * scale - MEAN) / sd**2, jnp.float32)
    velocity, drawn = {"z": jnp.zeros(DIM)}, Draws(jnp.asarray(NOISE), {"z": gradient})
    found, _ = mean_field_update(start, velocity, SPACE, drawn, jnp.ones(()), momentum=0.0)
    np.testing.assert_allclose(found.loc["z"], MEAN, atol=2e-6)
    np.testing.assert_allclose(np.exp(found.log_scale["z"]), sd, rtol=1e-5)


@pytest.mark.parametrize("curvature", [-0.5, -5.0, -1e4, 1e4])
def test_precisions_stay_positive_whatever_the_curvature(curvature):
    """Negative definite curvatures and noise of any size change a precision within bounds."""
    start = full_rank(MEAN, START)
    hessian = np.linalg.inv(START @ START.T) * -curvature * np.diag([1, 0, 0, 0])
    found = full_rank_update(start, SPACE, draws(start, lambda z: z @ hessian), jnp.float32(0.5))
    whitened = np.linalg.solve(np.asarray(cholesky_factor(found), float), START)
    change = np.linalg.eigvalsh(whitened.T @ whitened)
    assert 0.25 - 1e-4 < change.min() <= change.max() < 1 + 2 * DIM


WIDE = pytest.param(MeanField(init_scale=2.0), marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [FullRank(init_scale=2.0), WIDE])
def test_a_bad_start_is_left(guide):
    """Draws from -20 to 20 of the logarithm of a rate: gradients up to 1e9."""
    options = {"guide": guide, "progress_bar": False, "init": {"level": np.array([4.0, 8.0])}}
    y = np.array([3, 5, 4, 6, 2], np.int32)
    posterior = vijax.fit(counts, y, algorithm="natural", num_steps=1500, **options)
    name = "fullrank" if isinstance(guide, FullRank) else "meanfield"
    best = vijax.fit(counts, y, guide=name, progress_bar=False)
    tolerance = 0.02 + 4 * np.hypot(posterior.elbo_se, best.elbo_se)
    assert posterior.elbo > best.elbo - tolerance


@pytest.mark.slow
def test_the_mean_field_optimum_of_a_correlated_gaussian():
    """Its means are exact and its variances those of each coordinate given the others."""
    target = problem("regression")
    options = {"guide": "meanfield", "num_steps": 2000, "progress_bar": False}
    posterior = vijax.fit(target.model, *target.args, algorithm="natural", **options)
    sd = 1 / np.sqrt(np.diag(np.linalg.inv(target.covariance)))
    loc, log_scale = (np.hstack([one["alpha"], one["beta"]]) for one in posterior.params)
    np.testing.assert_allclose(np.exp(log_scale), sd, rtol=0.02)
    np.testing.assert_allclose((loc - target.mean) / sd, 0.0, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 50])
def test_logistic_regression_agrees_with_second_order_steps(batch_size):
    """The largest ELBO of a full-rank Gaussian, after fewer steps than gradient steps take."""
    x, y = logistic_data()
    exact = vijax.fit(
        logistic, x, y, guide="fullrank", algorithm="variational_newton", progress_bar=False
    )
    options = {"guide": "fullrank", "batch_size": batch_size, "progress_bar": False}
    posterior = vijax.fit(logistic, x, y, algorithm="natural", **options)
    assert posterior.converged
    means = (np.asarray(one.params.loc) for one in (posterior, exact))
    covariances = [cholesky_factor(one.params) for one in (posterior, exact)]
    whitened = np.linalg.solve(covariances[1], covariances[0])
    np.testing.assert_allclose(whitened @ whitened.T, np.eye(5), atol=0.06)
    assert np.linalg.norm(np.linalg.solve(covariances[1], np.subtract(*means))) < 0.08


@pytest.mark.slow
def test_resumed_steps_are_identical_also_from_a_file(tmp_path):
    """With local latent variables on minibatches, and two kinds of guides."""
    rows, guide = data(12), {"theta": "meanfield", ...: "fullrank"}
    options = {"guide": guide, "batch_size": {"rows": 4}, "num_particles": 6}
    options |= {"algorithm": "natural", "progress_bar": False}
    first = vijax.fit(hierarchy, rows, num_steps=50, **options)
    assert first._result.engine.algorithm == NaturalGradient(num_particles=6)
    first.save(tmp_path / "fit.vijax")
    whole = vijax.fit(hierarchy, rows, num_steps=120, **options)
    for posterior in (first, vijax.load(tmp_path / "fit.vijax", hierarchy, rows)):
        on = posterior.resume(70, progress_bar=False)
        np.testing.assert_array_equal(on.losses, whole.losses)
        jax.tree.map(np.testing.assert_array_equal, on.params, whole.params)


def test_rows_of_a_plate_move_by_unscaled_gradients_of_their_batches():
    """The posterior is in the family, so that the noise vanishes and the answer is exact."""
    rows = data(12)
    options = {"guide": "meanfield", "batch_size": {"rows": 4}, "progress_bar": False}
    posterior = vijax.fit(groups, rows, algorithm=NaturalGradient(0.2, 8), num_steps=600, **options)
    loc, log_scale = (one["theta"][:, 0] for one in posterior.params)
    np.testing.assert_allclose(np.exp(-2 * log_scale), PRECISION, rtol=1e-3)
    np.testing.assert_allclose(loc, rows.sum(1) / PRECISION, atol=1e-3)


@pytest.mark.slow
def test_param_sites_follow_an_optimizer():
    """The likelihood of `scale` is largest where it matches the spread of the data."""

    def model(y):
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, scale), obs=y)

    y = np.array([1.2, 3.1, -0.4, 2.2, 0.3, 1.9, 2.8, 0.1], np.float32)
    posterior = vijax.fit(model, y, guide="fullrank", algorithm="natural", progress_bar=False)
    variance = y.var(ddof=1)  # the maximum of the evidence under a flat prior on mu
    assert float(posterior.model_params["scale"]) ** 2 == pytest.approx(variance, rel=0.05)


def test_options_and_guides_that_do_not_apply_are_refused():
    x, y = logistic_data()
    options = {"algorithm": "natural", "progress_bar": False}
    with pytest.raises(ValueError, match="optimizer: expected None with algorithm='natural'"):
        vijax.fit(logistic, x, y, optimizer=optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match="objective: expected None with algorithm='natural'"):
        vijax.fit(logistic, x, y, objective=vijax.objectives.ELBO(), **options)
    with pytest.raises(GuideError, match=r"'fullrank' or a mapping to these, got LowRank"):
        vijax.fit(logistic, x, y, guide="lowrank", **options)
    for wrong in ({"rate": 0.0}, {"momentum": 1.0}, {"num_particles": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NaturalGradient(**wrong)
