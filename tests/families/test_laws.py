"""Laws of all exponential families, for each in one compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.families.members import BATCH, MAKERS, density, mean_parameters, members

NUM_DRAWS = 4000
RATES = np.array([[1.0, 1.0], [0.2, 0.7]])  # each for a batch of two
REST = (  # with the same code as another, or tested by fits; left to -m slow
    "gaussian chain",
    "wishart",
    "normal inverse gamma",
    *("bernoulli", "gamma", "inverse gamma", "inverse wishart", "beta"),
    *("normal-gamma", "normal-wishart", "normal inverse wishart"),
)
ALL = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in REST else name for name in MAKERS],
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def from_natural(like, natural):
    power = getattr(like, "power", None)
    return type(like).from_natural(natural, *(() if power is None else (power,)))


def inner(x, y, ndim=0):
    """The sum over all entries of all statistics, for each member of a batch."""
    products = (x[name] * y[name] for name in x)
    return sum(jnp.sum(p, tuple(range(ndim, p.ndim))) for p in products)


def close(got, expected, rtol=1e-9):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-9), got, expected)


def closed_forms(family, other, rates):
    """Of one member: what should be equal, in pairs."""
    natural, mean = family.natural, family.mean_parameters
    gradient = jax.grad(lambda eta: from_natural(family, eta).log_normalizer)(natural)

    def expected_log_density(expectations):
        return inner(other.natural, mean_parameters(family, expectations))

    slope = jax.grad(expected_log_density)(family.expectations)

    def steps(rate):
        new = jax.tree.map(lambda a, b: (1 - rate) * a + rate * b, natural, other.natural)
        return family.step(slope, rate).natural, new

    return {
        "the gradient of the log normalizer": (gradient, mean),
        "central form": (mean_parameters(family, family.expectations), mean),
        "natural round trip": (from_natural(family, natural), family),
        "entropy": (family.entropy, family.log_normalizer - inner(natural, mean)),
        "no divergence": (family.divergence(family), 0.0 * family.entropy),
        "steps": jax.vmap(steps)(rates),
    }, slope


def of_a_draw(family, other, value):
    """Of one draw of a batch: what has a known mean, and what should be zero."""
    log_prob, log_other = family.log_prob(value), other.log_prob(value)
    t = family.statistics(value)
    error = inner(family.natural, t, 1) - family.log_normalizer - log_prob
    return (-log_prob, log_prob - log_other, t), error


@functools.cache
def results(name):
    """Closed forms of each member by `vmap`; draws and their expected values of the batch."""

    @jax.jit
    def everything(family, other, rates, values):
        draws = jax.vmap(of_a_draw, (None, None, 0))(family, other, values)
        exact = (family.entropy, family.divergence(other), family.mean_parameters)
        pairs, slope = jax.vmap(closed_forms, (0, 0, 1))(family, other, rates)
        step = family.step(slope, rates[1]).natural
        pairs["a batch of steps"] = (step, jax.tree.map(lambda x: x[:, 1], pairs["steps"][1]))
        pairs["a batch"] = (exact[::2], (pairs["entropy"][0], pairs["central form"][1]))
        return pairs, draws, exact

    family, other = members(name)
    keys = jax.random.split(jax.random.key(len(name)), NUM_DRAWS)
    # Not in the program: all families take their gamma variables from one compiled function.
    values = jax.vmap(family.draw)(keys)
    return *everything(family, other, RATES, values), values


@ALL
def test_closed_forms(name):
    for got, expected in results(name)[0].values():
        close(got, expected)


@ALL
def test_entropy_divergence_and_draws_against_monte_carlo(name):
    _, (draws, error), exact, _ = results(name)
    assert all(x.shape[:1] == BATCH for x in jax.tree.leaves(exact))
    for x, expected in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        error_of_mean = np.std(x, 0) / NUM_DRAWS**0.5
        np.testing.assert_array_less(abs(np.mean(x, 0) - expected), 5 * error_of_mean + 1e-12)
    np.testing.assert_allclose(error, 0.0, atol=1e-8)  # log p = <eta, t> - A
    assert (exact[1] > 0.01).all()  # the divergence of different members


@ALL
def test_density(name):
    _, ((information, *_), _), _, values = results(name)
    family = jax.tree.map(np.asarray, members(name)[0])
    value = jax.tree.map(lambda x: np.asarray(x[0]), values)
    np.testing.assert_allclose(-information[0], density(family, value), 1e-8)
