"""Backward messages of a Markov chain in double precision, and their gradient.

The recursion of `forward_backward` on probabilities scaled to messages with a sum of one in
each step, so that a step is one product of a matrix and a vector, or matrix for several chains, and
no exponential. The gradient of the log messages are the marginal probabilities of the states and of
pairs of states, by a pass forward in time. Probabilities below the smallest double, `exp(-700)` of
the largest one, are zero. Source: A tutorial on hidden Markov models and selected applications in
speech recognition, Rabiner, 1989, section V A.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_UNROLLED = 64  # states


class _Messages(NamedTuple):
    """What the pass forward in time needs of the one backward.

    Attributes:
        transitions: probabilities up to a constant, `(steps or 1, previous, current, rows or 1)`.
        local: likewise the other factors, `(steps, current, rows)`.
        weighted: the local factors times the scaled messages.
        scales: of each step, `(steps, rows)`.
        first: the scaled message before the first step, `(previous, rows)`.
    """

    transitions: Array
    local: Array
    weighted: Array
    scales: Array
    first: Array


@jax.custom_vjp
def first_message(transitions: Array, local: Array) -> Array:
    """`b_0[i] = log sum exp(sum_t transitions_t[i_t, i_{t+1}] + local_t[i_{t+1}])`, over states.

    Args:
        transitions: logarithms, `(steps or 1, previous, current, rows or 1)`.
        local: logarithms, `(steps, current, rows)`.

    Returns:
        `(previous, rows)`.
    """
    return _backward(transitions, local)[0]


def _backward(transitions: Array, local: Array) -> tuple[Array, _Messages]:
    peak = _peak(transitions, (1, 2))
    peaks = _largest(local)
    matrices, factors = jnp.exp(transitions - peak), jnp.exp(local - peaks)
    static, chains = _forms(matrices, factors)
    # its product with a vector has the sum of all elements as its last one: as a step of its own
    # the sum takes four times as long as the product of a matrix of 20 states
    extended = None if static is None else jnp.concatenate([static, jnp.sum(static, 0)[None]])

    def step(message: Array, part: tuple[Array, Array | None]) -> tuple[Array, tuple[Array, Array]]:
        factor, matrix = part
        weighted = factor * message
        found = _times(_of_step(extended, matrix), weighted)
        if extended is None:
            total = jnp.sum(found, axis=0)
        else:
            found, total = found[:-1], found[-1]
        scale = jnp.where(total > 0, 1 / total, 1.0)
        return found * scale, (weighted * scale, scale)

    arrays = chains, None if static is not None else matrices
    first, (weighted, scales) = lax.scan(step, jnp.ones_like(chains[0]), arrays, reverse=True)
    shape = local.shape
    first, scales = first.reshape(shape[1:]), scales.reshape(shape[0], -1)
    constant = jnp.sum(peaks[:, 0], axis=0) - jnp.sum(jnp.log(scales), axis=0)
    repeats = shape[0] // len(peak)
    constant = constant + repeats * jnp.sum(peak[:, 0, 0], axis=0)
    messages = _Messages(matrices, factors, weighted.reshape(shape), scales, first)
    return jnp.log(first) + constant, messages


def _forward(messages: _Messages, slope: Array) -> tuple[Array, Array]:
    """The gradient: weighted probabilities of pairs of states, and of states."""
    transitions, local, weighted, scales, first = messages
    static, factors = _forms(transitions.swapaxes(1, 2), local)
    shape, row = factors.shape, factors.shape[2:]
    start = jnp.where(first > 0, slope / jnp.where(first > 0, first, 1.0), 0.0)

    def step(
        before: Array, part: tuple[Array, Array, Array, Array | None]
    ) -> tuple[Array, tuple[Array, Array]]:
        factor, scale, weight, matrix = part
        found = _times(_of_step(static, matrix), before)
        return found * factor * scale, (before, found * weight)

    matrices = None if static is not None else transitions.swapaxes(1, 2)
    weighted = weighted.reshape(shape)
    arrays = factors, scales.reshape(shape[0], *row), weighted, matrices
    _, (before, states) = lax.scan(step, start.reshape(shape[1:]), arrays)
    steps, _, _, rows = transitions.shape
    r, kept = "r" * len(row), "t" * (steps > 1) + "r" * (rows > 1)
    pairs = jnp.einsum(f"ti{r},tj{r}->ij{kept}", before, weighted)
    pairs = pairs.reshape(*transitions.shape[1:3], steps, rows)
    return transitions * jnp.moveaxis(pairs, 2, 0), states.reshape(local.shape)


def _forms(matrices: Array, local: Array) -> tuple[Array | None, Array]:
    """The matrix of all steps, if they have one; local factors, of one row without an axis."""
    if matrices.shape[0] > 1:
        return None, local
    if matrices.shape[3] > 1:
        return matrices[0], local
    return matrices[0, :, :, 0], local[..., 0] if local.shape[-1] == 1 else local


def _of_step(static: Array | None, matrix: Array | None) -> Array:
    found = static if matrix is None else matrix
    assert found is not None
    return found


def _times(matrix: Array, message: Array) -> Array:
    if matrix.ndim == 2:
        return matrix @ message
    return jnp.sum(matrix * message[None], axis=1)


def _largest(local: Array) -> Array:
    """`_peak` over states; a few of them one by one, which XLA vectorizes on a CPU."""
    if local.shape[1] > _UNROLLED:
        return _peak(local, 1)
    parts = (lax.stop_gradient(local[:, i]) for i in range(local.shape[1]))
    largest = functools.reduce(jnp.maximum, parts)[:, None]
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def _peak(log: Array, axes: int | tuple[int, ...]) -> Array:
    largest = lax.stop_gradient(jnp.max(log, axis=axes, keepdims=True))
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


first_message.defvjp(_backward, _forward)
