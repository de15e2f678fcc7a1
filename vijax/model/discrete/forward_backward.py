"""Forward-backward algorithm for Markov chains in a `scan`, linear in the number of steps.

With `M_t[i, j]` the log of the product of all factors of step `t` that depend on the states `i` at
the previous step and `j` at this one, the backward messages are

    b_t[i] = log sum_j exp(M_t[i, j] + b_{t+1}[j]),

for any initial state. States are then sampled forward in time from
`p(j at t | i at t - 1) ~ exp(M_t[i, j] + b_{t+1}[j])`. Source: A tutorial on hidden Markov models
and selected applications in speech recognition, Rabiner, 1989.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp

from vijax.model.discrete.factors import Factor, Name, align
from vijax.model.tracing.handler import Previous


class Chain(NamedTuple):
    """The factors of a Markov chain, with the states of its sites in one dimension.

    Attributes:
        log: `M_t`, `(steps, previous, current, *rest)`.
        sizes: numbers of states of the sites; their product is the length of `previous` and
            `current`.
        rest: names of the other dimensions.
    """

    log: Array
    sizes: tuple[int, ...]
    rest: tuple[Name, ...]


def as_chain(factor: Factor, loop: Name, states: Sequence[str]) -> Chain:
    """The chain of a factor over current and previous `states` of a loop."""
    previous = [Previous(name) for name in states]
    rest = tuple(name for name in factor.names if name not in {loop, *previous, *states})
    log = align(factor, (loop, *previous, *states, *rest))
    sizes = tuple(factor.sizes[name] for name in states)
    count = math.prod(sizes)
    full = (log.shape[0], *sizes, *sizes, *log.shape[1 + 2 * len(sizes) :])
    log = jnp.broadcast_to(log, full)
    log = log.reshape(log.shape[0], count, count, *full[1 + 2 * len(sizes) :])
    return Chain(log, sizes, rest)


def backward_messages(chain: Chain) -> tuple[Array, Array]:
    """`b_0`, `(previous, *rest)`, and `b_{t+1}` of every step `t`, `(steps, current, *rest)`.

    The latter up to a constant for each step.
    """

    def step(after: Array, log: Array) -> tuple[Array, tuple[Array, Array]]:
        message = logsumexp(log + after, axis=1)
        # normalized, so that differences between states are not lost to rounding
        peak = lax.stop_gradient(jnp.max(message, axis=0))
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
        return message - peak, (after, peak)

    last = jnp.zeros_like(chain.log[0, 0])
    first, (after, peaks) = lax.scan(step, last, chain.log, reverse=True)
    return first + jnp.sum(peaks, axis=0), after


def sample_states(key: Array, chain: Chain, initial: Array) -> Array:
    """States of every step `(steps, *rest)`, given those before the first, `(*rest)`."""
    _, after = backward_messages(chain)

    def step(previous: Array, part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, log, after = part
        row = jnp.take_along_axis(log, previous[None, None], axis=0)[0]
        current = jax.random.categorical(key, row + after, axis=0)
        return current, current

    keys = jax.random.split(key, len(chain.log))
    initial = jnp.broadcast_to(initial, chain.log.shape[3:]).astype(int)
    return lax.scan(step, initial, (keys, chain.log, after))[1]
