"""Probabilities and rates of exactly zero have a gradient, whatever multiplies the log density."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from vijax.contracts import Batch
from vijax.model import build, split
from vijax.model.tracing.limits import with_defined_gradient

SCALE = 1e3  # of a minibatch, or the number of terms in which a factor is shared


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("parameter", [0.0, 0.3])
@pytest.mark.parametrize(
    "make",
    [
        dist.Bernoulli,
        lambda p: dist.Binomial(3, p),
        dist.Poisson,
        lambda p: dist.Bernoulli(p).expand([2]).to_event(1).mask(True),
    ],
)
def test_the_same_density_with_a_finite_gradient(make, parameter, value):
    with numpyro.validation_enabled(False):

        def log_prob(p, change=with_defined_gradient):
            return SCALE * change(make(p)).log_prob(jnp.full(make(p).shape(), value))

        found, slope = jax.value_and_grad(log_prob)(parameter)
        np.testing.assert_array_equal(found, log_prob(parameter, lambda fn: fn))
        exact = jax.grad(log_prob)(parameter, lambda fn: fn) if parameter else 0.0
        np.testing.assert_allclose(slope, exact, rtol=1e-6)


def test_only_these_distributions_change():
    assert type(with_defined_gradient(dist.Bernoulli(0.2))).__name__ == "BernoulliProbs"
    for fn in (dist.Bernoulli(logits=0.2), dist.Normal(0.0, 1.0).expand([2])):
        assert with_defined_gradient(fn) is fn


def test_a_state_that_is_never_left():
    """Never seen in `steps` years: dead with certainty once dead."""
    steps, seen = 6, 0.5

    def model(y):
        phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))

        def step(alive, now):
            alive = numpyro.sample("alive", dist.Bernoulli(phi * alive))
            numpyro.sample("seen", dist.Bernoulli(seen * alive), obs=now)
            return alive, None

        scan(step, jnp.ones((), jnp.int32), y)

    def log_likelihood(phi):
        alive, total = 1.0, 0.0
        for _ in range(steps):
            total += alive * (1 - phi)
            alive *= phi * (1 - seen)
        return np.log(total + alive)

    arguments, data = split(model, (np.zeros(steps, int),), {})
    target, z = build(model, arguments), 0.4
    phi = 1 / (1 + np.exp(-z))
    slope = jax.jit(jax.grad(lambda z: target.log_density({"phi": z}, Batch(data))))(z)
    exact = (log_likelihood(phi + 1e-6) - log_likelihood(phi - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, exact * phi * (1 - phi) + 1 - 2 * phi, rtol=1e-4)
