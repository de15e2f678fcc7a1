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

LOG_2PI = 1.8378770664093453
_LARGE = 12.0  # from here on the series are used as they are


def digamma(a: Array) -> Array:
    """`psi(a)` of positive numbers: `psi(a + 8) - 1 / a - 1 / (a + 1) - ... - 1 / (a + 7)`.

    Without the branches for negative numbers it takes a fraction of the time of `jax.scipy`'s.
    """
    q = a * (a + 7)  # (a + i) (a + 7 - i) = q + i (7 - i)
    shift = (2 * a + 7) * (1 / q + 1 / (q + 6) + 1 / (q + 10) + 1 / (q + 12))
    return jnp.log(a + 8) - 0.5 / (a + 8) - _digamma_series(a + 8) - shift


def gammaln_rest(a: Array) -> Array:
    """`log Gamma(a)` less the first terms of its series, of the order of `1 / (12 a)`."""
    s = jnp.minimum(a, _LARGE)
    q = s * (s + 7)
    # log Gamma(s + 8) less the logarithm of s (s + 1) ... (s + 7), less the first terms at s
    shift = jnp.log(q * (q + 6) * (q + 10) * (q + 12))
    leading = (s + 7.5) * jnp.log(s + 8) - 8 - (s - 0.5) * jnp.log(s)
    direct = leading - shift + _gammaln_series(s + 8)
    return jnp.where(a < _LARGE, direct, _gammaln_series(jnp.maximum(a, _LARGE)))


def digamma_rest(a: Array) -> Array:
    """The first terms of the series of `psi(a)` less itself, of the order of `1 / (12 a^2)`."""
    s = jnp.minimum(a, _LARGE)
    direct = jnp.log(s) - 0.5 / s - digamma(s)
    return jnp.where(a < _LARGE, direct, _digamma_series(jnp.maximum(a, _LARGE)))


def _gammaln_series(a: Array) -> Array:
    """`gammaln_rest` of numbers from 8 on, to 1e-14."""
    r = 1 / (a * a)
    terms = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    return _polynomial(terms, r) / a


def _digamma_series(a: Array) -> Array:
    """`digamma_rest` of numbers from 8 on, to 1e-14."""
    r = 1 / (a * a)
    terms = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
    return _polynomial(terms, r) * r


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """By Horner's rule, the constant first."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


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
