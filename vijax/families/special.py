"""Functions of the gamma function that stay accurate in float32, and bounds of draws.

Log densities, entropies and divergences of gamma variables are differences of terms of the order
of `a log a` for concentrations `a`, and themselves of the order of `log a`. With Stirling's series
(DLMF 5.11.1, 5.11.2) the large terms are canceled by hand:

    log Gamma(a) = (a - 1/2) log a - a + log(2 pi) / 2 + gammaln_rest(a)
    psi(a) = log a - 1 / (2 a) - digamma_rest(a)
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln

LOG_2PI = 1.8378770664093453
_LARGE = 12.0  # from here on four terms of the series are exact to 1e-12


def gammaln_rest(concentration: Array) -> Array:
    """`log Gamma(a)` less the first terms of its series, of the order of `1 / (12 a)`."""
    small, a = jnp.minimum(concentration, _LARGE), jnp.maximum(concentration, _LARGE)
    direct = gammaln(small) - (small - 0.5) * jnp.log(small) + small - 0.5 * LOG_2PI
    r = 1 / (a * a)
    series = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / a
    return jnp.where(concentration < _LARGE, direct, series)


def digamma_rest(concentration: Array) -> Array:
    """The first terms of the series of `psi(a)` less itself, of the order of `1 / (12 a^2)`."""
    small, a = jnp.minimum(concentration, _LARGE), jnp.maximum(concentration, _LARGE)
    direct = jnp.log(small) - 0.5 / small - digamma(small)
    r = 1 / (a * a)
    series = (1 / 12 - r * (1 / 120 - r * (1 / 252 - r / 240))) * r
    return jnp.where(concentration < _LARGE, direct, series)


def gamma_entropy(a: Array) -> Array:
    """Entropy of the gamma distribution of rate 1, `a + log Gamma(a) + (1 - a) psi(a)`."""
    leading = 0.5 * (LOG_2PI + jnp.log(a) + 1 - 1 / a)
    return leading + gammaln_rest(a) + (a - 1) * digamma_rest(a)


def gammaln_divergence(other: Array, a: Array) -> Array:
    """`log Gamma(other) - log Gamma(a) - (other - a) psi(a)`, never negative up to rounding."""
    ratio = log_ratio(other / a - 1, jnp.log(other) - jnp.log(a))
    return other * ratio - (other - a) + divergence_rest(other, a)


def divergence_rest(other: Array, a: Array) -> Array:
    """`gammaln_divergence` less its leading terms `other log(other / a) - (other - a)`."""
    change = other - a
    ratio = log_ratio(change / a, jnp.log(other) - jnp.log(a))
    slope = change * (0.5 / a + digamma_rest(a))
    return slope - 0.5 * ratio + gammaln_rest(other) - gammaln_rest(a)


def log_ratio(change: Array, log: Array) -> Array:
    """The logarithm of `1 + change`: near 1 from the change, elsewhere the `log` given."""
    near = jnp.abs(change) < 0.5
    return jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), log)


def stirling(a: Array) -> Array:
    """The log density of `Gamma(a, a)` at its mean 1: `a log a - a - log Gamma(a)`."""
    return 0.5 * (jnp.log(a) - LOG_2PI) - gammaln_rest(a)


def positive(log_value: Array) -> Array:
    """The exponential, with underflow to the smallest normal number and overflow to the largest."""
    limits = jnp.finfo(log_value.dtype)
    return jnp.clip(jnp.exp(log_value), limits.tiny, limits.max)


def below_one(value: Array) -> Array:
    """Positive values, with 1 replaced by the largest number below."""
    return jnp.minimum(value, 1 - jnp.finfo(value.dtype).epsneg)
