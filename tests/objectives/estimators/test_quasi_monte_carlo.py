"""Quasi-Monte Carlo draws: marginally standard normal, stratified, unbiased gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

import vijax
from tests.targets import regression
from vijax.contracts import LossContext, Variables
from vijax.guides import MeanField
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.objectives import ELBO
from vijax.objectives.estimators.quasi_monte_carlo import quasi_normals

SCHEMES = ["latin_hypercube", "sobol"]


@pytest.mark.parametrize("how", SCHEMES)
def test_every_coordinate_has_a_value_in_every_stratum(how):
    points = quasi_normals(how, jax.random.key(0), 16, 5)
    strata = np.floor(16 * np.asarray(ndtr(points)))
    np.testing.assert_array_equal(np.sort(strata, axis=0), np.arange(16)[:, None] + np.zeros(5))


def test_pairs_of_coordinates_of_sobol_points_are_stratified():
    points = quasi_normals("sobol", jax.random.key(1), 64, 2)
    cells = np.floor(8 * np.asarray(ndtr(points))).astype(int)
    assert len({tuple(cell) for cell in cells}) == 64


@pytest.mark.parametrize("how", SCHEMES)
def test_every_point_is_marginally_standard_normal(how):
    num = 20_000
    keys = jax.random.split(jax.random.key(2), num)
    points = np.asarray(jax.jit(jax.vmap(lambda key: quasi_normals(how, key, 4, 3)))(keys), float)
    for power, moment, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)):
        error = np.sqrt(variance / num)
        assert np.abs((points**power).mean(axis=0) - moment).max() < 5 * error
    between = (points[:, :, 0] * points[:, :, 1]).mean(axis=0)
    assert np.abs(between).max() < 5 / np.sqrt(num)


def gradients(draws, num):
    """Gradients of a mean-field ELBO away from its optimum, `(num, 2 dim)`; their expectation."""
    problem, guide = regression(), MeanField()
    target, space = problem.target, problem.target.space
    loc = jnp.asarray(problem.z_mean, jnp.float32) + jnp.array([0.3, -0.2, 0.1])
    log_scale = jnp.array([-1.0, -0.5, -1.5])
    params = MeanFieldParams(space.unravel(loc), space.unravel(log_scale))
    objective = ELBO(16, draws=draws)

    def loss(params, key):
        context = LossContext({}, key, target, guide, problem.batch, jnp.zeros(()))
        return objective(Variables(params), context)[0]

    def gradient(key):
        found = jax.grad(loss)(params, key)
        return jnp.concatenate([space.ravel(found.loc), space.ravel(found.log_scale)])

    keys = jax.random.split(jax.random.key(3), num)
    precision = np.linalg.inv(problem.z_covariance)
    exact = [
        precision @ (np.asarray(loc) - problem.z_mean),
        np.exp(2 * np.asarray(log_scale)) * np.diag(precision) - 1,
    ]
    return np.asarray(jax.jit(jax.vmap(gradient))(keys), float), np.concatenate(exact)


def test_gradients_are_unbiased_and_have_lower_variance():
    plain, exact = gradients("independent", 4000)
    for how in SCHEMES:
        found, _ = gradients(how, 4000)
        error = found.std(axis=0) / np.sqrt(len(found))
        assert np.all(np.abs(found.mean(axis=0) - exact) < 5 * error)
        ratio = found.var(axis=0) / plain.var(axis=0)
        # gradients in locations are linear in each coordinate, those in scales also have products
        assert ratio[:3].max() < 0.25
        assert ratio[3:].max() < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("how", SCHEMES)
def test_a_fit_reaches_the_posterior(how):
    problem = regression()
    posterior = vijax.fit(
        problem.model,
        *problem.args,
        guide="fullrank",
        objective=ELBO(8, draws=how),
        num_steps=1500,
        progress_bar=False,
    )
    sd = np.sqrt(np.diag(problem.z_covariance))
    mean = np.asarray(posterior.guide.mean(posterior.params, posterior.space))
    assert np.abs((mean - problem.z_mean) / sd).max() < 0.05
    assert abs(posterior.elbo - problem.log_evidence) < 0.01


def test_errors_name_a_remedy():
    with pytest.raises(ValueError, match=r"draws: expected one of .* got 'halton'"):
        ELBO(4, draws="halton")
    with pytest.raises(ValueError, match="num_particles of at least 2, got 1"):
        ELBO(draws="sobol")
    with pytest.raises(ValueError, match="power of two as num_particles, got 12"):
        ELBO(12, draws="sobol")
    problem = regression()
    split = {"alpha": "map", ...: "meanfield"}
    with pytest.raises(vijax.GuideError, match="guide reparameterized by standard normals"):
        vijax.fit(
            problem.model,
            *problem.args,
            guide=split,
            objective=ELBO(4, draws="latin_hypercube"),
            num_steps=1,
            progress_bar=False,
        )
    with pytest.raises(vijax.GuideError, match="at most 21,201 coordinates"):
        quasi_normals("sobol", jax.random.key(0), 2, 30_000)
