"""The multivariate normal distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
from jax import Array

from vijax.families.exponential_family import ExponentialFamily, interpolate, over_events
from vijax.families.linear_algebra import (
    gram,
    inner,
    inverse_factor,
    log_det,
    outer,
    product,
    solve,
    symmetric,
    trace_product,
)
from vijax.families.special import LOG_2PI


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MultivariateNormal(ExponentialFamily):
    """`N(x; mean, precision^-1)` of vectors, with statistics `value = x` and `outer = x x'`.

    Attributes:
        mean: `(*B, k)`.
        precision: `(*B, k, k)`, symmetric and positive definite.
    """

    mean: Array
    precision: Array

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `x`, `(*B, k)`, and `x x'`, `(*B, k, k)`."""
        return {"value": product(self.precision, self.mean), "outer": -0.5 * self.precision}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        precision = -2 * natural["outer"]
        return cls(solve(inverse_factor(precision), natural["value"]), precision)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E x` and `E x x'`."""
        return {"value": self.mean, "outer": self._covariance + outer(self.mean, self.mean)}

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean`, `(*B, k)`, and `covariance`, `(*B, k, k)`."""
        return {"mean": self.mean, "covariance": self._covariance}

    @property
    def _covariance(self) -> Array:
        return gram(inverse_factor(self.precision))

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`P' = (1 - r) P - 2 r dL/dC` and `m' = m + r P'^-1 dL/dm`."""
        precision = interpolate(self.precision, -2 * symmetric(gradient["covariance"]), rate)
        move = solve(inverse_factor(precision), gradient["mean"])
        return type(self)(self.mean + over_events(rate, move.ndim) * move, precision)

    @property
    def log_normalizer(self) -> Array:
        """`(m' P m - log det P + k log 2 pi) / 2`."""
        square = inner(self.mean, product(self.precision, self.mean))
        return 0.5 * (square + self.mean.shape[-1] * LOG_2PI) + self._half_log_det_covariance

    @property
    def _half_log_det_covariance(self) -> Array:
        return log_det(inverse_factor(self.precision))

    @property
    def entropy(self) -> Array:
        """`(k + k log 2 pi - log det P) / 2`."""
        return 0.5 * self.mean.shape[-1] * (1 + LOG_2PI) + self._half_log_det_covariance

    def divergence(self, other: Self) -> Array:
        """From the precisions and the distance of the means."""
        factor, k = inverse_factor(self.precision), self.mean.shape[-1]
        change = self.mean - other.mean
        square = inner(change, product(other.precision, change))
        trace = trace_product(other.precision, gram(factor))
        return 0.5 * (square + trace - k) + other._half_log_det_covariance - log_det(factor)

    def draw(self, key: Array) -> Array:
        """One draw, `(*B, k)`."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + product(inverse_factor(self.precision).mT, noise)

    def log_prob(self, value: Array) -> Array:
        """The log density of values `(*B, k)`."""
        change = value - self.mean
        square = inner(change, product(self.precision, change))
        return -0.5 * (square + value.shape[-1] * LOG_2PI) - self._half_log_det_covariance

    def statistics(self, value: Array) -> dict[str, Array]:
        """`x` and `x x'`."""
        return {"value": value, "outer": outer(value, value)}
