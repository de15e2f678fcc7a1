"""The normal distribution of one variable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families.exponential_family import ExponentialFamily, interpolate
from vijax.families.special import LOG_2PI


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normal(ExponentialFamily):
    """`N(x; mean, 1 / precision)`, with statistics `value = x` and `square = x^2`.

    Attributes:
        mean: `*B`.
        precision: `*B`, positive.
    """

    mean: Array
    precision: Array

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `x` and `x^2`."""
        return {"value": self.precision * self.mean, "square": -0.5 * self.precision}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        precision = -2 * natural["square"]
        return cls(natural["value"] / precision, precision)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E x` and `E x^2`."""
        return {"value": self.mean, "square": 1 / self.precision + self.mean**2}

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean` and `variance`, each `*B`."""
        return {"mean": self.mean, "variance": 1 / self.precision}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`P' = (1 - r) P - 2 r dL/dv` and `m' = m + r dL/dm / P'`."""
        precision = interpolate(self.precision, -2 * gradient["variance"], rate)
        return type(self)(self.mean + rate * gradient["mean"] / precision, precision)

    @property
    def log_normalizer(self) -> Array:
        """`(m^2 P - log P + log 2 pi) / 2`."""
        return 0.5 * (self.mean**2 * self.precision - jnp.log(self.precision) + LOG_2PI)

    @property
    def entropy(self) -> Array:
        """`(1 + log 2 pi - log P) / 2`."""
        return 0.5 * (1 + LOG_2PI - jnp.log(self.precision))

    def divergence(self, other: Self) -> Array:
        """From the ratio of the precisions and the distance of the means."""
        ratio = other.precision / self.precision
        distance = other.precision * (self.mean - other.mean) ** 2
        return 0.5 * (distance + ratio - 1 - jnp.log(ratio))

    def draw(self, key: Array) -> Array:
        """One draw, `*B`."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + noise / jnp.sqrt(self.precision)

    def log_prob(self, value: Array) -> Array:
        """The log density of values `*B`."""
        square = self.precision * (value - self.mean) ** 2
        return 0.5 * (jnp.log(self.precision) - LOG_2PI - square)

    def statistics(self, value: Array) -> dict[str, Array]:
        """`x` and `x^2`."""
        return {"value": value, "square": value**2}
