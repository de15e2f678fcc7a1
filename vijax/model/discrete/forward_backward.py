"""Chains of discrete states in a `scan`: summed out and drawn in time linear in their length.

With `M_t[i, j]` the log of all factors of step `t` that the states `i` before it and `j` at it
enter, the sum over all states is taken from the last step to the first,

    b_t[i] = log sum_j exp(M_t[i, j] + b_{t+1}[j]),

which is one vector whatever the chain starts from. Draws then go forwards,
`p(j at t | i before) ~ exp(M_t[i, j] + b_{t+1}[j])`. Source: A tutorial on hidden Markov models
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

from vijax.model.discrete.factors import Factor, Name, spread


class Before(NamedTuple):
    """Names the state of a discrete site one step earlier."""

    name: str


class Links(NamedTuple):
    """The factors of a chain, its states in one dimension.

    Attributes:
        log: `(steps, before, now, *rest)`.
        sizes: numbers of states of the sites, whose product is the length of `before` and `now`.
        rest: names of the other dimensions.
    """

    log: Array
    sizes: tuple[int, ...]
    rest: tuple[Name, ...]


def links(table: Factor, loop: Name, states: Sequence[str]) -> Links:
    """Lays the factors of a chain out, with the states of several sites as one."""
    before = [Before(name) for name in states]
    rest = tuple(name for name in table.names if name not in {loop, *before, *states})
    log = spread(table, (loop, *before, *states, *rest))
    sizes = tuple(table.sizes[name] for name in states)
    count = math.prod(sizes)
    full = (log.shape[0], *sizes, *sizes, *log.shape[1 + 2 * len(sizes) :])
    log = jnp.broadcast_to(log, full)
    log = log.reshape(log.shape[0], count, count, *full[1 + 2 * len(sizes) :])
    return Links(log, sizes, rest)


def messages(chain: Links) -> tuple[Array, Array]:
    """`b` before the first step, `(before, *rest)`, and after every step, `(steps, now, *rest)`.

    The latter up to a constant for each step.
    """

    def step(after: Array, log: Array) -> tuple[Array, tuple[Array, Array]]:
        reached = logsumexp(log + after, axis=1)
        # kept small, so that a sum over thousands of steps does not round what they differ by
        peak = lax.stop_gradient(jnp.max(reached, axis=0))
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
        return reached - peak, (after, peak)

    last = jnp.zeros_like(chain.log[0, 0])
    first, (after, peaks) = lax.scan(step, last, chain.log, reverse=True)
    return first + jnp.sum(peaks, axis=0), after


def draw(key: Array, chain: Links, start: Array) -> Array:
    """States of every step `(steps, *rest)`, given those before the first, `(*rest)`."""
    _, after = messages(chain)

    def step(before: Array, part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, log, after = part
        chosen = jnp.take_along_axis(log, before[None, None], axis=0)[0]
        now = jax.random.categorical(key, chosen + after, axis=0)
        return now, now

    keys = jax.random.split(key, len(chain.log))
    start = jnp.broadcast_to(start, chain.log.shape[3:]).astype(int)
    return lax.scan(step, start, (keys, chain.log, after))[1]
