"""Laws of all exponential families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.families.members import BATCH, MAKERS, mean_parameters, members

NUM_DRAWS = 4000
ALL = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def from_natural(like, natural):
    power = getattr(like, "power", None)
    return type(like).from_natural(natural, *(() if power is None else (power,)))


def inner(x, y):
    """The sum over all entries of all statistics, for each member of the batch."""
    return sum(jnp.sum((x[name] * y[name]).reshape(*BATCH, -1), -1) for name in x)


def close(got, expected, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-9), got, expected)


@ALL
def test_mean_parameters_are_the_gradient_of_the_log_normalizer(name):
    family, _ = members(name)
    gradient = jax.jit(jax.grad(lambda eta: from_natural(family, eta).log_normalizer.sum()))(
        family.natural
    )
    close(gradient, family.mean_parameters)
    close(mean_parameters(family, family.expectations), family.mean_parameters)
    close(from_natural(family, family.natural), family)


@ALL
def test_entropy_divergence_and_draws_against_monte_carlo(name):
    family, other = members(name)

    @jax.jit
    def samples(family, other, key):
        value = family.draw(key)
        log_prob, log_other = family.log_prob(value), other.log_prob(value)
        t, eta = family.statistics(value), family.natural
        density = inner(eta, t) - family.log_normalizer
        return (-log_prob, log_prob - log_other, t), density - log_prob

    keys = jax.random.split(jax.random.key(len(name)), NUM_DRAWS)
    draws, error = jax.vmap(samples, (None, None, 0))(family, other, keys)
    exact = (family.entropy, family.divergence(other), family.mean_parameters)
    for x, expected in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        error_of_mean = jnp.std(x, 0) / NUM_DRAWS**0.5
        np.testing.assert_array_less(abs(jnp.mean(x, 0) - expected), 5 * error_of_mean + 1e-12)
    np.testing.assert_allclose(error, 0.0, atol=1e-8)  # log p = <eta, t> - A
    close(family.entropy, family.log_normalizer - inner(family.natural, family.mean_parameters))
    assert (family.divergence(other) > 0.01).all()
    close(family.divergence(family), jnp.zeros(BATCH))


@ALL
@pytest.mark.parametrize("rate", [1.0, 0.3, np.array([0.2, 0.7])])
def test_a_step_interpolates_natural_parameters(name, rate):
    family, optimum = members(name)

    def expected_log_density(expectations):
        return inner(optimum.natural, mean_parameters(family, expectations)).sum()

    gradient = jax.grad(expected_log_density)(family.expectations)
    moved = family.step(gradient, rate)

    def interpolated(old, new):
        r = rate if np.ndim(rate) == 0 else rate.reshape(-1, *[1] * (old.ndim - 1))
        return (1 - r) * old + r * new

    close(moved.natural, jax.tree.map(interpolated, family.natural, optimum.natural), 1e-8)
    assert type(moved) is type(family)
    assert getattr(moved, "power", None) == getattr(family, "power", None)


@ALL
def test_a_batch_is_its_members(name):
    family, other = members(name)

    def everything(family, other, key):
        value = family.draw(key)
        return family.expectations, family.entropy, family.divergence(other), other.log_prob(value)

    key = jax.random.key(0)
    each = jax.jit(jax.vmap(everything, (0, 0, None)))(family, other, key)
    assert all(leaf.shape[:1] == BATCH for leaf in jax.tree.leaves(each))
    whole = everything(family, other, key)
    close(each[:3], whole[:3])
