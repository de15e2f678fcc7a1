"""Functions of the gamma function that stay accurate in float32, and bounds of draws."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln

LOG_2PI = 1.8378770664093453
_LARGE = 8.0  # from here on four terms of Stirling's series are exact to 1e-10


def gamma_entropy(concentration: Array) -> Array:
    """Entropy of the gamma distribution of rate 1, `a + log Gamma(a) + (1 - a) psi(a)`.

    The terms are of the order of `a log a`, their sum of the order of `log a`: for large `a` their
    leading terms are canceled by hand in Stirling's series (DLMF 5.11.1 and 5.11.2).
    """
    small, a = jnp.minimum(concentration, _LARGE), jnp.maximum(concentration, _LARGE)
    direct = small + gammaln(small) + (1 - small) * digamma(small)
    r = 1 / (a * a)
    rest_of_gammaln = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / a
    rest_of_digamma = (1 / 12 - r * (1 / 120 - r * (1 / 252 - r / 240))) * r
    series = 0.5 * (LOG_2PI + jnp.log(a) + 1 - 1 / a) + rest_of_gammaln + (a - 1) * rest_of_digamma
    return jnp.where(concentration < _LARGE, direct, series)


def gammaln_divergence(other: Array, a: Array) -> Array:
    """`log Gamma(other) - log Gamma(a) - (other - a) psi(a)`, which is never negative."""
    return gammaln(other) - gammaln(a) - (other - a) * digamma(a)


def positive(log_value: Array) -> Array:
    """The exponential, with underflow to the smallest normal number and overflow to the largest."""
    limits = jnp.finfo(log_value.dtype)
    return jnp.clip(jnp.exp(log_value), limits.tiny, limits.max)


def below_one(value: Array) -> Array:
    """Positive values, with 1 replaced by the largest number below."""
    return jnp.minimum(value, 1 - jnp.finfo(value.dtype).epsneg)
