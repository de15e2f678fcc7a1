"""The beta distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families.dirichlet import Dirichlet
from vijax.families.exponential_family import ExponentialFamily, interpolate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Beta(ExponentialFamily):
    """`x ~ Beta(a, b)`: the first of two proportions with a Dirichlet distribution.

    The statistics are `log = log x` and `log1m = log(1 - x)`.

    Attributes:
        a: `*B`, positive.
        b: `*B`, positive.
    """

    a: Array
    b: Array

    @property
    def _dirichlet(self) -> Dirichlet:
        return Dirichlet(jnp.stack([self.a, self.b], axis=-1))

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `log x` and `log(1 - x)`."""
        return {"log": self.a - 1, "log1m": self.b - 1}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        return cls(natural["log"] + 1, natural["log1m"] + 1)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E log x` and `E log(1 - x)`."""
        return self.expectations

    @property
    def expectations(self) -> dict[str, Array]:
        """`log = E log x` and `log1m = E log(1 - x)`, each `*B`."""
        log = self._dirichlet.expectations["log"]
        return {"log": log[..., 0], "log1m": log[..., 1]}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`a' = (1 - r) a + r (dL/d log + 1)`, and likewise `b`."""
        return type(self)(
            interpolate(self.a, gradient["log"] + 1, rate),
            interpolate(self.b, gradient["log1m"] + 1, rate),
        )

    @property
    def log_normalizer(self) -> Array:
        """The logarithm of the beta function."""
        return self._dirichlet.log_normalizer

    @property
    def entropy(self) -> Array:
        """That of both proportions."""
        return self._dirichlet.entropy

    def divergence(self, other: Self) -> Array:
        """That of both proportions."""
        return self._dirichlet.divergence(other._dirichlet)

    def draw(self, key: Array) -> Array:
        """One draw, `*B`, never exactly 0 or 1."""
        return self._dirichlet.draw(key)[..., 0]

    def log_prob(self, value: Array) -> Array:
        """The log density of values `*B`."""
        log = jnp.stack([jnp.log(value), jnp.log1p(-value)], axis=-1)
        excess = (self.a + self.b) * value - self.a
        return self._dirichlet.log_density(log, jnp.stack([excess, -excess], axis=-1))

    def statistics(self, value: Array) -> dict[str, Array]:
        """`log x` and `log(1 - x)`."""
        return {"log": jnp.log(value), "log1m": jnp.log1p(-value)}
