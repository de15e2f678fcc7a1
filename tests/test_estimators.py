"""Gradients through Bernoulli variables, by enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.objectives.discrete import (
    DisARM,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    Rebar,
    StraightThrough,
)

LOGITS = jnp.array([0.3, -1.2, 2.0, 0.0])
WEIGHTS = jnp.array([[0.5, -1.0, 0.3, 0.8], [1.5, 0.2, -0.7, 0.4]])
KEYS = jax.random.split(jax.random.key(0), 20_000)
ALL = jnp.array(list(itertools.product([0.0, 1.0], repeat=4)))
UNBIASED = [
    LocalExpectation(),
    LeaveOneOut(2),
    LeaveOneOut(5),
    DisARM(),
    DisARM(3),
    Rebar(),
    Rebar(0.5, 0.5),
    Rebar(surrogate=lambda z: jnp.sum(jnp.tanh(z["b"][:, 1]) * jnp.arange(4.0))),
]
BIASED = [GumbelSoftmax((0.5,)), StraightThrough()]


def f(b, shift=0.2):
    """Smooth, not additive, and with a parameter of its own."""
    return jnp.sum(jnp.tanh(WEIGHTS @ b + shift) ** 2) + b[0] * b[2]


def expected(logits, shift):
    log_p = ALL * jax.nn.log_sigmoid(logits) + (1 - ALL) * jax.nn.log_sigmoid(-logits)
    return jnp.exp(log_p.sum(1)) @ jax.vmap(lambda b: f(b, shift))(ALL)


@functools.cache
def estimates(estimator):
    """Values and gradients in the logits and in the parameter of `f`, a row for each key."""

    def one(key, logits, shift):
        return estimator(key, logits, lambda b: f(b, shift))

    slopes = jax.value_and_grad(one, (1, 2))
    # in pieces: some programs on more than 4,096 keys at once are wrong, by XLA's fault on CPUs
    program = jax.jit(
        lambda keys, *at: jax.lax.map(lambda key: slopes(key, *at), keys, batch_size=2000)
    )
    value, (logits, shift) = program(KEYS, LOGITS, jnp.array(0.2))
    return [np.asarray(part, float) for part in (value, logits, shift)]


@functools.cache
def exact():
    program = jax.jit(jax.value_and_grad(expected, (0, 1)))
    value, slopes = program(LOGITS, jnp.array(0.2))
    return value, *slopes


def label(estimator):
    """Without the address of a function: two workers of a test run must agree on names."""
    return repr(estimator).split(", surrogate")[0]


@pytest.mark.parametrize("estimator", UNBIASED, ids=label)
def test_value_and_gradients_are_unbiased(estimator):
    assert estimator.unbiased
    for got, want in zip(estimates(estimator), exact(), strict=True):
        error = 5 * got.std(0) / np.sqrt(len(KEYS)) + 1e-5
        assert (np.abs(got.mean(0) - want) < error).all()


@pytest.mark.parametrize("estimator", BIASED, ids=label)
def test_those_called_biased_are(estimator):
    assert not estimator.unbiased
    value, logits, shift = estimates(estimator)
    wanted = exact()
    for got, want in ((value, wanted[0]), (shift, wanted[2])):
        assert abs(got.mean() - want) < 5 * got.std() / np.sqrt(len(KEYS))
    error = logits.std(0) / np.sqrt(len(KEYS))
    assert (np.abs(logits.mean(0) - wanted[1]) > 5 * error).any()


def test_variances_are_in_the_order_of_preference():
    variance = {e: estimates(e)[1].var(0).sum() for e in (*UNBIASED, LeaveOneOut(2))}
    assert variance[LocalExpectation()] < variance[DisARM()] < variance[LeaveOneOut(2)]
    assert variance[DisARM(3)] == pytest.approx(variance[DisARM()] / 3, rel=0.1)


@pytest.mark.parametrize(
    "estimator", [LocalExpectation(), LeaveOneOut(2), DisARM(), Rebar()], ids=label
)
def test_the_toy_that_biased_gradients_get_wrong(estimator):
    """`(b - 0.499)^2` is least for `b = 0`, by a hair: its slope is 0.002 p (1 - p)."""

    def toy(key, logits):
        return estimator(key, logits, lambda b: jnp.sum((b - 0.499) ** 2))

    logits = jnp.array([0.0])
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(toy, 1), (0, None)))(KEYS, logits), float)
    error = 5 * slopes.std() / np.sqrt(len(KEYS)) + 1e-6
    assert abs(slopes.mean() - 0.002 / 4) < error


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (LeaveOneOut, {"num_draws": 1}, "num_draws"),
        (DisARM, {"num_pairs": 0}, "num_pairs"),
        (Rebar, {"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_options_are_named(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        estimator(**options)
