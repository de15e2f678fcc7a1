"""The gamma distribution of a power of a variable: gamma, inverse gamma, and roots of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from vijax.families.exponential_family import ExponentialFamily, interpolate
from vijax.families.gamma_variates import log_gamma_variates
from vijax.families.special import (
    digamma,
    divergence_rest,
    gamma_entropy,
    log_ratio,
    positive,
    stirling,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gamma(ExponentialFamily):
    """`x^power ~ Gamma(concentration, rate)`, with statistics `value = x^power` and its `log`.

    The density is that of `x`: `|p| rate^a / Gamma(a) x^(p a - 1) exp(-rate x^p)` for the power
    `p`, so that `eta` of `log x^p` is `a - 1 / p`.

    Attributes:
        concentration: `*B`, positive.
        rate: `*B`, positive.
        power: not zero. 1 is the gamma distribution, -1 the inverse gamma distribution (`rate` is
            then its scale), -2 that of a standard deviation whose precision has a gamma
            distribution.
    """

    concentration: Array
    rate: Array
    power: float = dataclasses.field(default=1, metadata={"static": True})

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `x^power` and of its logarithm."""
        return {"value": -self.rate, "log": self.concentration - 1 / self.power}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array], power: float = 1) -> Self:
        """The inverse of `natural`."""
        return cls(natural["log"] + 1 / power, -natural["value"], power)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E x^power` and `E log x^power`."""
        return self.expectations

    @property
    def expectations(self) -> dict[str, Array]:
        """`value = E x^power` and `log = E log x^power`, each `*B`."""
        log = digamma(self.concentration) - jnp.log(self.rate)
        return {"value": self.concentration / self.rate, "log": log}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`a' = (1 - r) a + r (dL/d log + 1 / power)` and `b' = (1 - r) b - r dL/d value`."""
        return type(self)(
            interpolate(self.concentration, gradient["log"] + 1 / self.power, rate),
            interpolate(self.rate, -gradient["value"], rate),
            self.power,
        )

    @property
    def log_normalizer(self) -> Array:
        """`log Gamma(a) - a log b - log |power|`."""
        scale = self.concentration * jnp.log(self.rate) + math.log(abs(self.power))
        return gammaln(self.concentration) - scale

    @property
    def entropy(self) -> Array:
        """That of `x^power`, and the expected log Jacobian of `x`."""
        p, log = self.power, self.expectations["log"]
        of_power = gamma_entropy(self.concentration) - jnp.log(self.rate)
        return of_power - math.log(abs(p)) + (1 / p - 1) * log

    def divergence(self, other: Self) -> Array:
        """That of `x^power`, from the ratio of the means; both have the same power."""
        a, b, rates = self.concentration, other.concentration, other.rate / self.rate
        change = (a * rates - b) / b
        ratio = log_ratio(change, jnp.log(rates) + jnp.log(a) - jnp.log(b))
        return b * (change - ratio) + divergence_rest(b, a)

    def draw_log(self, key: Array) -> Array:
        """The logarithm of one draw of `x^power`, `*B`, finite also where the draw underflows."""
        return log_gamma_variates(key, self.concentration) - jnp.log(self.rate)

    def draw(self, key: Array) -> Array:
        """One draw, `*B`: positive and finite, at the limits of the type beyond them."""
        return positive(self.draw_log(key) / self.power)

    def log_prob(self, value: Array) -> Array:
        """The log density of values `*B`, from the ratio of `x^power` to its mean."""
        a, log = self.concentration, self.power * jnp.log(value)
        change = (self.rate * jnp.exp(log) - a) / a
        ratio = log_ratio(change, log + jnp.log(self.rate) - jnp.log(a))
        jacobian = math.log(abs(self.power)) - log / self.power
        return a * (ratio - change) + stirling(a) + jacobian

    def statistics(self, value: Array) -> dict[str, Array]:
        """`x^power` and its logarithm."""
        log = self.power * jnp.log(value)
        return {"value": jnp.exp(log), "log": log}
