"""The root of the Fisher information against closed forms, whatever the outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.contracts import Batch
from vijax.model import split_and_build

N = 4
LOGITS = jnp.array([0.3, -0.2])


def information(model, z, y=None):
    """`R'R` in the latents at unconstrained `z`, `(dim, dim)`."""
    y = np.zeros(N, np.float32) if y is None else y
    _, data, target = split_and_build(model, (y,), {}, None, frozenset())
    space = target.space

    def root(vector):
        found = target.fisher_root(space.unravel(vector), Batch(data), {}, {}, jax.random.key(0))
        return jnp.concatenate([jnp.ravel(value) for value in found.values()])

    jacobian = np.asarray(jax.jit(jax.jacfwd(root))(jnp.asarray(z, jnp.float32)), float)
    return jacobian.T @ jacobian


def one(likelihood, wrap=lambda fn: fn):
    """A latent on which the distribution of `N` rows depends."""

    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", N):
            numpyro.sample("y", wrap(likelihood(z)), obs=y)

    return model


# by name: the distribution, and the information of one row at z = 0.4
Z = 0.4
P = 1 / (1 + np.exp(-Z))
CLASSES = np.exp([Z, 2 * Z, 0.0]) / np.exp([Z, 2 * Z, 0.0]).sum()
VARIANCE = CLASSES @ np.array([1, 2, 0]) ** 2 - (CLASSES @ np.array([1, 2, 0])) ** 2
KNOWN = {
    "Normal": (lambda z: dist.Normal(z, 0.5), 4.0),
    "Normal, scale": (lambda z: dist.Normal(1.0, jnp.exp(z)), 2.0),
    "LogNormal": (lambda z: dist.LogNormal(z, 0.5), 4.0),
    "Bernoulli": (lambda z: dist.Bernoulli(logits=z), P * (1 - P)),
    "Categorical": (lambda z: dist.Categorical(logits=z * jnp.array([1.0, 2.0, 0.0])), VARIANCE),
    "Poisson": (lambda z: dist.Poisson(jnp.exp(z)), np.exp(Z)),
    "Binomial": (lambda z: dist.Binomial(7, logits=z), 7 * P * (1 - P)),
    "Exponential": (lambda z: dist.Exponential(jnp.exp(z)), 1.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_information_of_a_distribution(name):
    likelihood, expected = KNOWN[name]
    y = np.ones(N, int if name in ("Categorical", "Binomial") else np.float32)
    found = information(one(likelihood), [Z], y)
    np.testing.assert_allclose(found, N * expected, rtol=1e-4)


def test_scales_masks_and_events():
    mask = jnp.array([True, False, True, True])
    likelihood = KNOWN["Normal"][0]
    found = information(one(likelihood, lambda fn: fn.expand([N]).mask(mask)), [Z])
    np.testing.assert_allclose(found, 3 * 4.0, rtol=1e-5)

    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", N), numpyro.handlers.scale(scale=2.5):
            numpyro.sample("y", dist.Normal(z, jnp.array([1.0, 2.0])).to_event(1), obs=y)

    found = information(model, [0.1, 0.2], np.zeros((N, 2), np.float32))
    np.testing.assert_allclose(found, 2.5 * N * np.diag([1.0, 0.25]), rtol=1e-5)


def test_location_and_scale_together():
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)

    found = information(model, [0.3, np.log(0.5)])
    np.testing.assert_allclose(found, N * np.diag([4.0, 2.0]), rtol=1e-4, atol=1e-4)


def test_draws_estimate_what_has_no_sum():
    many = 400

    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", many):
            numpyro.sample("y", dist.StudentT(4.0, z, 0.5), obs=y)

    found = information(model, [Z], np.zeros(many, np.float32))
    # the score's fourth moment is finite: 32 draws of 400 rows
    np.testing.assert_allclose(found, many * (5 / 7) / 0.25, rtol=5 * 1.2 / np.sqrt(32 * many))


def test_outcomes_do_not_matter():
    """Of an interpolating model the empirical Fisher would be zero."""
    for name in ("Normal", "Poisson"):
        interpolated = np.full(N, Z if name == "Normal" else np.exp(Z), np.float32)
        ones = [information(one(KNOWN[name][0]), [Z], y) for y in (interpolated, np.ones(N))]
        np.testing.assert_array_equal(*ones)
        np.testing.assert_allclose(ones[0], N * KNOWN[name][1], rtol=1e-4)
