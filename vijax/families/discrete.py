"""Discrete sites that are drawn, not summed out: their values as numbers, families over them.

The values of such a site are numbered from 0. In a position it is an array of these numbers, of the
site's shape; or, for gradients through a relaxation, an array with one more axis, of weights that
sum to one over the values.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import log_sigmoid

TINY = 1e-6  # keeps random numbers off the ends, where their logs are infinite


class Finite(NamedTuple):
    """Independent variables with the same finite number of values.

    Attributes:
        logits: `(*shape, n - 1)`, of the values from the second on, against the first.
    """

    logits: Array

    @property
    def size(self) -> int:
        """Number of values, `n`."""
        return self.logits.shape[-1] + 1

    @property
    def log_probs(self) -> Array:
        """Log probability of every value, `(*shape, n)`."""
        return jax.nn.log_softmax(self.scores)

    @property
    def scores(self) -> Array:
        """The same up to a constant, `(*shape, n)`."""
        first = jnp.zeros((*self.logits.shape[:-1], 1), self.logits.dtype)
        return jnp.concatenate([first, self.logits], axis=-1)

    def draw(self, key: Array) -> Array:
        """Numbers of values, `shape`."""
        if self.size == 2:  # one uniform number instead of two
            logits = self.logits[..., 0]
            noise = jax.random.logistic(key, logits.shape, logits.dtype)
            return (logits + noise > 0).astype(jnp.int32)
        return jax.random.categorical(key, self.scores).astype(jnp.int32)

    def log_prob(self, states: Array) -> Array:
        """Elementwise, of numbers of values `shape` or weights `(*shape, n)`."""
        return jnp.sum(weights(states, self) * self.log_probs, axis=-1)


class Counts(NamedTuple):
    """Independent counts from zero up: a logistic variable, cut off below zero, rounded down.

    `P(k) = (F((k + 1 - m) / s) - F((k - m) / s)) / F(m / s)` with `F` the logistic distribution
    function, `m = exp(log_loc)` and `s = exp(log_scale)`. Location and spread are free of each
    other, as they are not in a Poisson distribution, and the tail is that of a negative binomial
    one.

    Attributes:
        log_loc: `shape`.
        log_scale: `shape`.
    """

    log_loc: Array
    log_scale: Array

    def draw(self, key: Array) -> Array:
        """Counts, `shape`."""
        loc, scale = jnp.exp(self.log_loc), jnp.exp(self.log_scale)
        uniform = jax.random.uniform(key, loc.shape, loc.dtype, TINY, 1.0)
        above = uniform * jax.nn.sigmoid(loc / scale)  # probability beyond the draw
        place = loc + scale * (jnp.log1p(-jnp.minimum(above, 1 - TINY)) - jnp.log(above))
        return jnp.maximum(jnp.floor(place), 0).astype(jnp.int32)

    def log_prob(self, states: Array) -> Array:
        """Elementwise."""
        loc, rate = jnp.exp(self.log_loc), jnp.exp(-self.log_scale)
        k = states.astype(loc.dtype)
        # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))
        inside = log_sigmoid((k + 1 - loc) * rate) + log_sigmoid((loc - k) * rate)
        return inside + jnp.log(-jnp.expm1(-rate)) - log_sigmoid(loc * rate)


Family = Finite | Counts


def weights(states: Array, family: Finite) -> Array:
    """Numbers of values as weights `(*shape, n)`; weights as they are."""
    if states.ndim == family.logits.ndim:
        return states
    return jax.nn.one_hot(states.astype(jnp.int32), family.size, dtype=family.logits.dtype)


def detached(family: Family) -> Family:
    """The family with its parameters held fixed."""
    return jax.tree.map(stop_gradient, family)
