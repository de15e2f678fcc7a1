"""f-divergences against quadrature in one dimension."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vijax
from tests import targets
from tests.objectives.test_elbo import exact, loss_and_gradient, wrong
from vijax.guides import FullRank
from vijax.objectives import FDivergence
from vijax.objectives.f_divergence import DIVERGENCES

KEYS = jax.random.split(jax.random.key(5), 200)
FORMULAS = {
    "kl": lambda w: -jnp.log(w),
    "forward_kl": lambda w: w * jnp.log(w),
    "chi2": lambda w: (w - 1) ** 2,
    "hellinger": lambda w: (jnp.sqrt(w) - 1) ** 2,
    "jensen_shannon": lambda w: 0.5 * (w * jnp.log(w) - (1 + w) * jnp.log((1 + w) / 2)),
    "total_variation": lambda w: 0.5 * jnp.abs(w - 1),
}


@functools.cache
def quadrature(name):
    """The divergence of a normal guide as a function of its parameters, on a grid."""
    problem = targets.problem("normal_mean")
    mean, sd = float(problem.z_mean[0]), float(problem.z_covariance[0, 0]) ** 0.5
    z = np.linspace(mean - 7 * sd, mean + 7 * sd, 20_001)
    p = np.exp(-0.5 * ((z - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    def value(params):
        scale = jnp.exp(params.log_scale[0])
        q = jnp.exp(-0.5 * ((z - params.loc[0]) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
        return jnp.sum(q * FORMULAS[name](p / q)) * (z[1] - z[0])

    return problem, value


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradient_equal_quadrature(name):
    problem, value = quadrature(name)
    params = wrong(problem)
    found = loss_and_gradient(FDivergence(name, 4000), FullRank(), params, problem, 0.0, KEYS)
    want = jax.value_and_grad(value)(params)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        error = 5 * np.std(got, axis=0) / np.sqrt(len(KEYS))
        assert (
            np.abs(np.mean(got, axis=0) - expected) < error + 0.01 * np.abs(expected) + 1e-4
        ).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_loss_and_gradient_are_zero_at_the_posterior(name):
    problem = targets.problem("normal_mean")
    loss, slope = loss_and_gradient(
        FDivergence(name, 64), FullRank(), exact(problem), problem, 0.0, KEYS[:20]
    )
    if name == "total_variation":  # not differentiable there: rounding determines the sign
        assert np.abs(loss).max() < 1e-4
    else:
        np.testing.assert_allclose(loss, 0.0, atol=1e-4)
        assert max(float(jnp.abs(leaf).max()) for leaf in slope) < 1e-3


def test_a_fit_by_the_hellinger_distance():
    problem = targets.problem("correlated2")
    posterior = vijax.fit(
        problem.model,
        *problem.args,
        guide="fullrank",
        objective=FDivergence("hellinger", 128),
        num_steps=2000,
        progress_bar=False,
    )
    np.testing.assert_allclose(posterior.covariance(), problem.covariance, rtol=0.15, atol=0.05)


def test_invalid_options_raise():
    with pytest.raises(ValueError, match=r"name: expected one of.*Did you mean 'hellinger'"):
        FDivergence("helinger")
    with pytest.raises(ValueError, match="num_particles"):
        FDivergence("kl", 1)
