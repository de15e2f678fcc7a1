"""Distributions over discrete sites in the guide: categorical and discretized logistic.

The values of a site are indexed from 0. In a position a site is an array of these indices, of the
site's shape; or, for gradients through a continuous relaxation, an array with one more axis of
relaxed one-hot vectors, which sum to one over the values.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import log_sigmoid

T = TypeVar("T")

TINY = 1e-6  # keeps uniform random numbers away from 0 and 1, where logits are infinite


class Categorical(NamedTuple):
    """Independent categorical variables with the same number of values `n`.

    Attributes:
        logits: `(*shape, n - 1)`, log odds of the values from the second on relative to the first.
    """

    logits: Array

    @property
    def size(self) -> int:
        """Number of values, `n`."""
        return self.logits.shape[-1] + 1

    @property
    def log_probs(self) -> Array:
        """Log probability of every value, `(*shape, n)`."""
        return jax.nn.log_softmax(self.all_logits)

    @property
    def all_logits(self) -> Array:
        """Unnormalized log probability of every value, zero for the first, `(*shape, n)`."""
        first = jnp.zeros((*self.logits.shape[:-1], 1), self.logits.dtype)
        return jnp.concatenate([first, self.logits], axis=-1)

    def draw(self, key: Array) -> Array:
        """One draw: indices of values, `shape`."""
        if self.size == 2:  # takes one uniform random number instead of two
            logits = self.logits[..., 0]
            noise = jax.random.logistic(key, logits.shape, logits.dtype)
            return (logits + noise > 0).astype(jnp.int32)
        return jax.random.categorical(key, self.all_logits).astype(jnp.int32)

    def log_prob(self, values: Array) -> Array:
        """Elementwise, for indices `shape` or relaxed one-hot vectors `(*shape, n)`."""
        return jnp.sum(as_one_hot(values, self) * self.log_probs, axis=-1)


class DiscretizedLogistic(NamedTuple):
    """Independent counts: a logistic variable, truncated below at zero and rounded down.

    `P(k) = (F((k + 1 - m) / s) - F((k - m) / s)) / F(m / s)` with `F` the logistic distribution
    function, `m = exp(log_loc)` and `s = exp(log_scale)`. Location and scale are free parameters,
    unlike the mean and variance of a Poisson distribution; the tail decays geometrically, like
    that of a negative binomial distribution.

    Attributes:
        log_loc: `shape`.
        log_scale: `shape`.
    """

    log_loc: Array
    log_scale: Array

    @property
    def size(self) -> None:
        """There is no largest value."""
        return None

    def draw(self, key: Array) -> Array:
        """One draw: counts, `shape`."""
        loc, scale = jnp.exp(self.log_loc), jnp.exp(self.log_scale)
        uniform = jax.random.uniform(key, loc.shape, loc.dtype, TINY, 1.0)
        upper_tail = uniform * jax.nn.sigmoid(loc / scale)  # P(X > draw), X not truncated
        value = loc + scale * (jnp.log1p(-jnp.minimum(upper_tail, 1 - TINY)) - jnp.log(upper_tail))
        return jnp.maximum(jnp.floor(value), 0).astype(jnp.int32)

    def log_prob(self, values: Array) -> Array:
        """Elementwise, for counts `shape`."""
        loc, rate = jnp.exp(self.log_loc), jnp.exp(-self.log_scale)
        k = values.astype(loc.dtype)
        # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))
        inside = log_sigmoid((k + 1 - loc) * rate) + log_sigmoid((loc - k) * rate)
        return inside + jnp.log(-jnp.expm1(-rate)) - log_sigmoid(loc * rate)


def as_one_hot(values: Array, family: Categorical) -> Array:
    """Indices of values as one-hot vectors `(*shape, n)`; relaxed one-hot vectors unchanged."""
    if values.ndim == family.logits.ndim:
        return values
    return jax.nn.one_hot(values.astype(jnp.int32), family.size, dtype=family.logits.dtype)


def detach(family: T) -> T:
    """The distribution with no gradient through its parameters."""
    return jax.tree.map(stop_gradient, family)
