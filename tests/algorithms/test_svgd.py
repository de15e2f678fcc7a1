"""SVGD and the kernelized Stein discrepancy, on densities known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.algorithms import IMQ, RBF, SVGD
from vijax.diagnostics.stein import stein
from vijax.diagnostics.stein_discrepancy import discrepancy
from vijax.objectives import Stein
from vijax.runtime.errors import GuideError

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(mean, covariance):
    numpyro.sample("z", dist.MultivariateNormal(mean, covariance))


DATA = (MEAN.astype(np.float32), COVARIANCE.astype(np.float32))


def scores(points):
    return -(points - MEAN) @ PRECISION


@functools.cache
def fitted():
    return vijax.fit(gaussian, *DATA, algorithm=SVGD(100), progress_bar=False)


@pytest.mark.parametrize("kernel", [RBF(1.3), IMQ(0.7)])
def test_the_stein_kernel_has_mean_zero_under_its_density(kernel):
    """By quadrature in one dimension, for several values of the other point."""
    x = np.linspace(-12, 12, 20_001)[:, None]
    density = np.exp(-0.5 * x[:, 0] ** 2) / np.sqrt(2 * np.pi) * (x[1, 0] - x[0, 0])
    for y in (-1.5, 0.2, 3.0):
        two = np.array([[y], [0.0]])
        # pairs of each grid point with y, by blocks of three points
        pairs = [
            stein(np.vstack([two[:1], part]), -np.vstack([two[:1], part]), kernel, np).pairs
            for part in np.array_split(x, 40)
        ]
        row = np.concatenate([one[0, 1:] for one in pairs])
        assert abs(row @ density) < 1e-6


@pytest.mark.parametrize("kernel", [RBF(2.0), IMQ(2.0)])
def test_the_stein_kernel_by_differentiation(kernel):
    """Compared with `s_x.s_y k + s_x.d_y k + s_y.d_x k + tr d_x d_y k` by JAX."""
    points = np.random.default_rng(0).normal(size=(4, 2))

    def k(x, y):
        return kernel.profile(jnp.sum((x - y) ** 2), 2.0, jnp).value

    def score(x):
        return -jnp.asarray(PRECISION) @ (x - MEAN)

    def stein_kernel(x, y):
        along_x, along_y = jax.grad(k, 0)(x, y), jax.grad(k, 1)(x, y)
        trace = jnp.trace(jax.jacfwd(jax.grad(k, 0), 1)(x, y))
        return score(x) @ score(y) * k(x, y) + score(x) @ along_y + score(y) @ along_x + trace

    every = jax.jit(jax.vmap(jax.vmap(stein_kernel, (None, 0)), (0, None)))
    found = stein(points, scores(points), kernel, np)
    np.testing.assert_allclose(found.pairs, every(points, points), rtol=1e-4, atol=1e-4)

    def push(x):
        parts = jax.vmap(lambda y: k(y, x) * score(y) + jax.grad(k, 0)(y, x))(points)
        return jnp.mean(parts, axis=0)

    np.testing.assert_allclose(found.direction, jax.vmap(push)(points), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [RBF(), IMQ()])
def test_the_discrepancy_detects_wrong_draws(kernel):
    """For exact draws it has its expected value; for shifted or narrow ones it is larger."""
    rng, factor, num = np.random.default_rng(0), np.linalg.cholesky(COVARIANCE), 200
    ratios = []
    for _ in range(50):
        points = MEAN + rng.normal(size=(num, 2)) @ factor.T
        found = discrepancy(points, scores(points), kernel)
        ratios.append((found.value / found.exact) ** 2)
    assert abs(np.mean(ratios) - 1) < 5 * np.std(ratios) / np.sqrt(50) + 0.05
    for wrong in (points + 0.7, MEAN + 0.4 * (points - MEAN)):
        found = discrepancy(wrong, scores(wrong), kernel)
        assert (found.value / found.exact) ** 2 > np.mean(ratios) + 3 * np.std(ratios)


@pytest.mark.slow
def test_particles_find_a_gaussian():
    posterior = fitted()
    points = np.asarray(posterior.params.points)
    assert points.shape == (100, 2)
    np.testing.assert_allclose(points.mean(0), MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), COVARIANCE, rtol=0.15, atol=0.1)
    draws = posterior.sample(500)["z"]
    assert {tuple(row) for row in draws} <= {tuple(row) for row in points}
    found = posterior.stein_discrepancy()
    assert found.value < found.exact
    assert posterior.status == "approximate"
    assert np.isnan(posterior.elbo)
    assert "Stein discrepancy of the 100 particles" in posterior.report()
    assert "modes far from all particles" in posterior.report()
    with pytest.raises(GuideError, match="importance: expected a guide with a density"):
        posterior.importance()


@pytest.mark.slow
def test_both_modes_of_a_mixture_in_the_right_proportion():
    def bimodal(separation):
        mixture = dist.Categorical(jnp.array([0.5, 0.5]))
        parts = dist.Normal(jnp.array([-1.0, 1.0]) * separation, 1.0)
        numpyro.sample("z", dist.MixtureSameFamily(mixture, parts))

    posterior = vijax.fit(bimodal, 2.0, algorithm=SVGD(60, IMQ()), progress_bar=False)
    points = np.asarray(posterior.params.points)[:, 0]
    assert abs((points > 0).mean() - 0.5) < 0.1
    assert np.std(points) == pytest.approx(np.sqrt(5), rel=0.08)


def test_the_discrepancy_of_a_fit():
    options = {"guide": "meanfield", "num_steps": 10, "progress_bar": False}
    good = vijax.fit(gaussian, *DATA, progress_bar=False).stein_discrepancy(500)
    bad = vijax.fit(gaussian, *DATA, **options).stein_discrepancy(500)
    assert good.value < 2 * good.exact
    assert bad.value > 2 * bad.exact


def test_resumed_steps_are_identical_also_from_a_file(tmp_path):
    options = {"algorithm": SVGD(10), "progress_bar": False}
    first = vijax.fit(gaussian, *DATA, num_steps=50, **options)
    first.save(tmp_path / "fit.vijax")
    whole = vijax.fit(gaussian, *DATA, num_steps=120, **options)
    for posterior in (first, vijax.load(tmp_path / "fit.vijax", gaussian, *DATA)):
        on = posterior.resume(70, progress_bar=False)
        np.testing.assert_array_equal(on.losses, whole.losses)
        np.testing.assert_array_equal(on.params.points, whole.params.points)


def test_invalid_arguments_are_rejected():
    with pytest.raises(GuideError, match="expected a guide of particles"):
        vijax.fit(gaussian, *DATA, guide="meanfield", objective=Stein(), progress_bar=False)
    with pytest.raises(GuideError, match="at least 2 particles"):
        vijax.fit(gaussian, *DATA, algorithm=SVGD(1), progress_bar=False)
    with pytest.raises(ValueError, match="width: expected a positive number"):
        IMQ(-1.0)
