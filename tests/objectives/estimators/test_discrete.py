"""Gradient estimators for Bernoulli and categorical variables against enumeration."""

import functools
import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vijax.objectives.estimators.discrete import (
    DisARM,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    Rebar,
    Relax,
    StraightThrough,
)

LOGITS = jnp.array([0.3, -1.2, 2.0, 0.0])
WEIGHTS = jnp.array([[0.5, -1.0, 0.3, 0.8], [1.5, 0.2, -0.7, 0.4]])
KEYS = jax.random.split(jax.random.key(0), 20_000)
ALL = jnp.array(list(itertools.product([0.0, 1.0], repeat=4)))
LEARNED = [Rebar(0.5, learned=True), Relax(), Relax(relaxation=None)]
UNBIASED = [
    LocalExpectation(),
    LeaveOneOut(2),
    LeaveOneOut(5),
    DisARM(),
    DisARM(3),
    Rebar(),
    Rebar(0.5, 0.5),
    *LEARNED,
]
BIASED = [GumbelSoftmax((0.5,)), StraightThrough()]


def control_params_of(estimator, logits, scale=0.5):
    """Initial parameters of control variates plus random perturbations."""
    start, structure = jax.tree.flatten(estimator.init_control_params(jax.random.key(5), logits))
    keys = jax.random.split(jax.random.key(6), len(start))
    moved = [a + scale * jax.random.normal(k, a.shape) for a, k in zip(start, keys, strict=True)]
    return structure.unflatten(moved)


def f(b, shift=0.2):
    """Smooth, not additive, and with a parameter."""
    return jnp.sum(jnp.tanh(WEIGHTS @ b + shift) ** 2) + b[0] * b[2]


def expected(logits, shift):
    log_p = ALL * jax.nn.log_sigmoid(logits) + (1 - ALL) * jax.nn.log_sigmoid(-logits)
    return jnp.exp(log_p.sum(1)) @ jax.vmap(lambda b: f(b, shift))(ALL)


@functools.cache
def estimates(estimator):
    """Values and gradients in the logits and in the parameter of `f`, one row per key."""

    controls = control_params_of(estimator, LOGITS)

    def one(key, logits, shift):
        return estimator(key, logits, lambda b: f(b, shift), controls)

    slopes = jax.value_and_grad(one, (1, 2))
    # in batches: some programs on more than 4,096 keys at once are wrong, a bug of XLA on CPUs
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


@pytest.mark.parametrize("estimator", UNBIASED, ids=repr)
def test_value_and_gradients_are_unbiased(estimator):
    assert estimator.unbiased
    for got, want in zip(estimates(estimator), exact(), strict=True):
        error = 5 * got.std(0) / np.sqrt(len(KEYS)) + 1e-5
        assert (np.abs(got.mean(0) - want) < error).all()


@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_estimators_marked_as_biased_are(estimator):
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


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [LeaveOneOut(2), Rebar(), *LEARNED], ids=repr)
def test_gradients_of_categorical_variables_are_unbiased(estimator):
    logits = jnp.array([[0.3, -0.5, 0.0], [1.0, 0.2, -1.0]])
    payoff = jnp.array([[1.0, -0.5, 0.3], [0.2, 2.0, -0.7]])
    controls = control_params_of(estimator, logits)

    def value(one_hot):
        return jnp.tanh(jnp.sum(payoff * one_hot)) ** 2 + one_hot[0, 1] * one_hot[1, 2]

    def expectation(logits):
        every = jax.nn.one_hot(jnp.array(list(itertools.product(range(3), repeat=2))), 3)
        log_p = jnp.sum(every * jax.nn.log_softmax(logits), (1, 2))
        return jnp.exp(log_p) @ jax.vmap(value)(every)

    def one(key):
        return jax.grad(lambda at: estimator(key, at, value, controls))(logits)

    program = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))
    slopes = np.asarray(program(KEYS), float)
    error = 5 * slopes.std(0) / np.sqrt(len(KEYS)) + 1e-5
    assert (np.abs(slopes.mean(0) - jax.grad(expectation)(logits)) < error).all()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_the_gradient_of_the_variance(estimator):
    """The gradient of the squared norm agrees with finite differences on the same draws."""
    start, back = jax.flatten_util.ravel_pytree(control_params_of(estimator, LOGITS, 0.2))
    direction = jax.random.normal(jax.random.key(8), start.shape) / jnp.sqrt(start.size)

    def squared(flat, key):
        slopes = jax.grad(estimator, 1)(key, LOGITS, f, back(flat))
        return jnp.sum(slopes**2)

    def mean(flat):
        return jnp.mean(jax.vmap(lambda key: squared(flat, key))(KEYS[:200]))

    slope = jnp.vdot(jax.jit(jax.grad(mean))(start), direction)
    ahead, behind = (jax.jit(mean)(start + step * direction) for step in (0.01, -0.01))
    assert abs(slope) > 0.01
    assert float(slope) == pytest.approx(float(ahead - behind) / 0.02, rel=0.02)


def learned(estimator, logits, value, steps):
    """Control variates after gradient steps on the variance, one draw each."""
    optimizer, controls = optax.adam(0.01), estimator.init_control_params(jax.random.key(2), logits)

    def squared(controls, key):
        return jnp.sum(jax.grad(estimator, 1)(key, logits, value, controls) ** 2)

    def step(state, key):
        controls, moments = state
        updates, moments = optimizer.update(jax.grad(squared)(controls, key), moments)
        return (optax.apply_updates(controls, updates), moments), None

    state = (controls, optimizer.init(controls))
    keys = jax.random.split(jax.random.key(3), steps)
    return jax.jit(lambda *state: jax.lax.scan(step, *state))(state, keys)[0][0]


@pytest.mark.slow
def test_learned_control_variates_reduce_the_variance():
    """Figure 1 of the paper on RELAX: variances REBAR > REBAR, learned > RELAX."""
    logits, variances = jnp.array([0.0]), []

    def toy(b):
        return jnp.sum((b - 0.499) ** 2)

    for estimator in (Rebar(0.5), Rebar(0.5, learned=True), Relax()):
        controls = () if estimator == Rebar(0.5) else learned(estimator, logits, toy, 3000)

        def slope(key, estimator=estimator, controls=controls):
            return jax.grad(estimator, 1)(key, logits, toy, controls)

        slopes = np.asarray(jax.jit(jax.vmap(slope))(KEYS), float)
        error = 5 * slopes.std() / np.sqrt(len(KEYS)) + 1e-6
        assert abs(slopes.mean() - 0.002 / 4) < error
        variances.append(slopes.var())
    assert variances[1] < 0.8 * variances[0]
    assert variances[2] < 0.01 * variances[1]


@pytest.mark.parametrize(
    "estimator", [LocalExpectation(), LeaveOneOut(2), DisARM(), Rebar()], ids=repr
)
def test_a_problem_on_which_biased_gradients_fail(estimator):
    """`(b - 0.499)^2` is slightly smaller at `b = 0`: its gradient is 0.002 p (1 - p)."""

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
def test_invalid_options_raise(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        estimator(**options)
