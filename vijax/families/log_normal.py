"""The log-normal distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families.exponential_family import ExponentialFamily
from vijax.families.normal import Normal
from vijax.families.special import positive


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LogNormal(ExponentialFamily):
    """`log x ~ N(mean, 1 / precision)`, with statistics `log = log x` and `square = (log x)^2`.

    The density is that of `x`, so that `eta` of `log x` is `precision mean - 1`.

    Attributes:
        mean: of `log x`, `*B`.
        precision: of `log x`, `*B`, positive.
    """

    mean: Array
    precision: Array

    @property
    def normal(self) -> Normal:
        """The distribution of `log x`."""
        return Normal(self.mean, self.precision)

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `log x` and of its square."""
        eta = self.normal.natural
        return {"log": eta["value"] - 1, "square": eta["square"]}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        eta = {"value": natural["log"] + 1, "square": natural["square"]}
        normal = Normal.from_natural(eta)
        return cls(normal.mean, normal.precision)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E log x` and `E (log x)^2`."""
        moments = self.normal.mean_parameters
        return {"log": moments["value"], "square": moments["square"]}

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean` and `variance` of `log x`, each `*B`."""
        return self.normal.expectations

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """That of `log x`, whose density has one more factor `x`."""
        slope = {"mean": gradient["mean"] + 1, "variance": gradient["variance"]}
        normal = self.normal.step(slope, rate)
        return type(self)(normal.mean, normal.precision)

    @property
    def log_normalizer(self) -> Array:
        """That of `log x`."""
        return self.normal.log_normalizer

    @property
    def entropy(self) -> Array:
        """That of `log x`, and the expected log Jacobian `E log x`."""
        return self.normal.entropy + self.mean

    def divergence(self, other: Self) -> Array:
        """That of `log x`, of which `x` is a function."""
        return self.normal.divergence(other.normal)

    def draw(self, key: Array) -> Array:
        """One draw, `*B`: positive and finite, at the limits of the type beyond them."""
        return positive(self.normal.draw(key))

    def log_prob(self, value: Array) -> Array:
        """The log density of values `*B`."""
        log = jnp.log(value)
        return self.normal.log_prob(log) - log

    def statistics(self, value: Array) -> dict[str, Array]:
        """`log x` and its square."""
        log = jnp.log(value)
        return {"log": log, "square": log**2}
