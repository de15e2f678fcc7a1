"""`E log p` of distributions of positive numbers."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from vijax.model.conjugacy.densities.arguments import Arguments, Row, data, raised, times
from vijax.model.conjugacy.expectation import Expectation
from vijax.model.conjugacy.values import Value


def _gamma(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    shape = data(arguments["concentration"], "concentration")
    return _gamma_of(expectation, shape, arguments["rate"], x, 1)


def _inverse_gamma(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    shape = data(arguments["concentration"], "concentration")
    return _gamma_of(expectation, shape, arguments["rate"], x, -1)


def _exponential(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _gamma_of(expectation, jnp.ones(()), arguments["rate"], x, 1)


def _gamma_of(
    expectation: Expectation, shape: Array, rate: Value, x: Value, exponent: int
) -> Array:
    """The log density of `x` with `x^exponent` gamma-distributed, exponent 1 or -1."""
    with expectation.about("rate"):
        log_rate = expectation.log(rate)
    with expectation.about("value"):
        log_x = expectation.log(x)
        product = times(raised(x, exponent, "value"), rate)
    with expectation.about("rate"):
        mean = expectation.mean(product)
    return shape * log_rate + (exponent * shape - 1) * log_x - mean - gammaln(shape)


def _half_normal(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("scale"):
        precision = raised(arguments["scale"], -2, "scale")
        log_precision = expectation.log(precision)
        expectation.needed(precision)
    with expectation.about("value"):
        square = expectation.mean(times(precision, raised(x, 2, "value")))
    return 0.5 * (log_precision - square) + 0.5 * math.log(2 / math.pi)


def _half_cauchy(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`x^-2` given an auxiliary variable is gamma, integrated over its optimal distribution."""
    expectation.augmented("half-Cauchy by an auxiliary gamma variable")
    with expectation.about("scale"):
        variance = raised(arguments["scale"], 2, "scale")
        log_variance = expectation.log(variance)
    with expectation.about("value"):
        log_x = expectation.log(x)
        ratio = expectation.mean(times(variance, raised(x, -2, "value")))
    log_ratio = log_variance - 2 * log_x
    return math.log(2 / math.pi) - 0.5 * log_variance + log_ratio - jnp.log1p(ratio)


ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.Gamma: (("concentration", "rate"), _gamma),
    dist.Chi2: (("concentration", "rate"), _gamma),
    dist.InverseGamma: (("concentration", "rate"), _inverse_gamma),
    dist.Exponential: (("rate",), _exponential),
    dist.HalfNormal: (("scale",), _half_normal),
    dist.HalfCauchy: (("scale",), _half_cauchy),
}
