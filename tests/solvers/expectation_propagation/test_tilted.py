"""Moments of tilted distributions: few points where they suffice, and panels where they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.solvers.expectation_propagation.support import support
from vijax.solvers.expectation_propagation.tilted import Near, moments

LIKELIHOODS = {
    "logistic": lambda u: -jnp.logaddexp(0.0, -u),
    "step": lambda u: jnp.where(u > 0.3, 0.0, -jnp.inf),
    "heavy tails": lambda u: -2.5 * jnp.log1p((u - 2.0) ** 2 / 4.0),
    "narrow": lambda u: jnp.logaddexp(-0.5 * (50 * (u - 1.3)) ** 2, jnp.log(0.3) - 0.5 * u**2),
}


def by_sum(log_likelihood, mean, variance):
    """Log integral, mean and variance by a sum over a fine grid whose cells end at steps."""
    sd = np.sqrt(variance)
    u = (np.arange(-200_000, 200_000) + 0.5) * 1e-4 * sd.round(1)
    log_density = np.asarray(log_likelihood(u)) - 0.5 * (u - mean) ** 2 / variance
    weight = np.exp(log_density) / np.sqrt(2 * np.pi * variance) * (u[1] - u[0])
    total = weight.sum()
    center = weight @ u / total
    return np.log(total), center, weight @ (u - center) ** 2 / total


SLOW = ("logistic", "heavy tails", "narrow")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in LIKELIHOODS]
)
def test_moments_are_those_of_a_sum(name):
    """Whatever the normal distribution that is tried first: close, too narrow, and far away."""
    likelihood = LIKELIHOODS[name]
    exact = by_sum(likelihood, 0.4, np.float64(1.0))
    with jax.enable_x64(True):
        where = jax.jit(lambda sd: support(likelihood, sd))(jnp.full(1, 2.0))
        assert bool(where.concave[0]) == (name in ("logistic", "step"))

        def run(where, near):
            return moments(likelihood, jnp.full(1, 0.4), jnp.ones(1), where, 10, near)

        program = jax.jit(run)
        for mean, variance in ((exact[1], exact[2]), (exact[1], 0.02), (6.0, 0.3)):
            near = Near(jnp.full(1, mean), jnp.full(1, variance), jnp.ones(1, bool))
            np.testing.assert_allclose(np.ravel(program(where, near)), exact, rtol=1e-7, atol=1e-7)


def test_two_intervals_are_not_concave():
    """A hole of probability zero, which few points might not see."""

    def likelihood(u):
        return jnp.where((u > 0.5) & (u < 0.6), -jnp.inf, 0.0)

    where = jax.jit(lambda sd: support(likelihood, sd))(jnp.ones(1))
    assert not where.concave[0]


def test_one_site_is_enough_to_need_panels():
    """Of two sites few points suffice for one: the other is exact as well."""
    scale = np.array([1.0, 40.0])

    def likelihood(u):
        return -jnp.logaddexp(0.0, -scale * u)

    with jax.enable_x64(True):
        where = jax.jit(lambda sd: support(likelihood, sd))(jnp.ones(2))
        near = Near(jnp.zeros(2), jnp.ones(2), jnp.ones(2, bool))
        zeros = jnp.zeros(2)
        found = jax.jit(lambda a, b: moments(likelihood, zeros, b.variance, a, 10, b))(where, near)
    for i in range(2):
        exact = by_sum(lambda u, i=i: likelihood(u[:, None])[:, i], 0.0, np.float64(1.0))
        np.testing.assert_allclose([part[i] for part in found], exact, rtol=1e-7, atol=1e-7)
