"""Distributions over discrete sites in the guide: categorical and discretized logistic.

The values of a site are indexed from 0. In a position a site is an array of these indices, of the
site's shape; or, for gradients through a continuous relaxation, an array with one more axis of
relaxed one-hot vectors, which sum to one over the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.nn import log_sigmoid

from vijax.families.exponential_family import ExponentialFamily, interpolate

T = TypeVar("T")

TINY = 1e-6  # keeps uniform random numbers away from 0 and 1, where logits are infinite


@ExponentialFamily.register  # parameters of a guide are NamedTuples, which have no other base
class Categorical(NamedTuple):
    """Independent categorical variables with the same number of values `n`.

    The statistic `indicator` is 1 at the variable's value, from the second value on. The
    expectations are those of all `n` values, so that an expected log density may use any of them.

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

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of the indicators, `(*shape, n - 1)`: the log odds."""
        return {"indicator": self.logits}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        return cls(natural["indicator"])

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """Probabilities of the values from the second on, `(*shape, n - 1)`."""
        return {"indicator": self.expectations["probs"][..., 1:]}

    @property
    def expectations(self) -> dict[str, Array]:
        """`probs`, the probabilities of all values, `(*shape, n)`."""
        return {"probs": jnp.exp(self.log_probs)}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """Log odds `(1 - r) logits + r dL/d probs`, the gradient relative to the first value's."""
        slope = gradient["probs"]
        return type(self)(interpolate(self.logits, slope[..., 1:] - slope[..., :1], rate))

    @property
    def log_normalizer(self) -> Array:
        """The log of the sum of the odds, `shape`."""
        return jax.nn.logsumexp(self.all_logits, axis=-1)

    @property
    def entropy(self) -> Array:
        """`-sum p log p`, `shape`."""
        return -self._expected(self.log_probs)

    def divergence(self, other: Self) -> Array:
        """`sum p log(p / q)`, `shape`."""
        return self._expected(self.log_probs - other.log_probs)

    def _expected(self, function: Array) -> Array:
        """Of a function of the value, `(*shape, n)`; impossible values count nothing."""
        probs = self.expectations["probs"]
        return jnp.sum(jnp.where(probs > 0, probs * function, 0), axis=-1)

    def draw(self, key: Array) -> Array:
        """One draw: indices of values, `shape`."""
        if self.size == 2:  # takes one uniform random number instead of two
            logits = self.logits[..., 0]
            noise = jax.random.logistic(key, logits.shape, logits.dtype)
            return (logits + noise > 0).astype(jnp.int32)
        return jax.random.categorical(key, self.all_logits).astype(jnp.int32)

    def log_prob(self, value: Array) -> Array:
        """Elementwise, for indices `shape` or relaxed one-hot vectors `(*shape, n)`."""
        return jnp.sum(as_one_hot(value, self) * self.log_probs, axis=-1)

    def statistics(self, value: Array) -> dict[str, Array]:
        """The indicators of the values from the second on, `(*shape, n - 1)`."""
        return {"indicator": as_one_hot(value, self)[..., 1:]}


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
