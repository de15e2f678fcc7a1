"""The Dirichlet distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from vijax.families.exponential_family import ExponentialFamily, interpolate
from vijax.families.gamma_variates import log_gamma_variates
from vijax.families.special import (
    below_one,
    digamma,
    divergence_rest,
    gamma_entropy,
    log_ratio,
    positive,
    stirling,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dirichlet(ExponentialFamily):
    """Probabilities of `K` values, with the statistics `log = log x`.

    Attributes:
        concentration: `(*B, K)`, positive.
    """

    concentration: Array

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `log x`, `(*B, K)`."""
        return {"log": self.concentration - 1}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        return cls(natural["log"] + 1)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E log x`, `(*B, K)`."""
        return self.expectations

    @property
    def expectations(self) -> dict[str, Array]:
        """`log = E log x`, `(*B, K)`."""
        return {"log": digamma(self.concentration) - digamma(self._total)[..., None]}

    @property
    def _total(self) -> Array:
        return jnp.sum(self.concentration, axis=-1)

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`a' = (1 - r) a + r (dL/d log + 1)`."""
        return type(self)(interpolate(self.concentration, gradient["log"] + 1, rate))

    @property
    def log_normalizer(self) -> Array:
        """`sum log Gamma(a) - log Gamma(sum a)`."""
        return jnp.sum(gammaln(self.concentration), axis=-1) - gammaln(self._total)

    @property
    def entropy(self) -> Array:
        """By those of the gamma variables whose proportions these are."""
        parts = jnp.sum(gamma_entropy(self.concentration), axis=-1)
        excess = (self.concentration.shape[-1] - 1) * digamma(self._total)
        return parts - gamma_entropy(self._total) - excess

    def divergence(self, other: Self) -> Array:
        """From the ratios of the means."""
        a, b = self.concentration, other.concentration
        totals = (other._total / self._total)[..., None]
        change = (a * totals - b) / b
        ratio = log_ratio(change, jnp.log(totals) + jnp.log(a) - jnp.log(b))
        parts = b * (change - ratio) + divergence_rest(b, a)
        return jnp.sum(parts, axis=-1) - divergence_rest(other._total, self._total)

    def draw_log(self, key: Array) -> Array:
        """The logarithm of one draw, `(*B, K)`, finite also where the draw underflows."""
        return jax.nn.log_softmax(log_gamma_variates(key, self.concentration), axis=-1)

    def draw(self, key: Array) -> Array:
        """One draw, `(*B, K)`, never exactly 0 or 1."""
        return below_one(positive(self.draw_log(key)))

    def log_prob(self, value: Array) -> Array:
        """The log density of values `(*B, K)` that sum to one, from their ratios to the means."""
        excess = self._total[..., None] * value - self.concentration
        return self.log_density(jnp.log(value), excess)

    def log_density(self, log: Array, excess: Array) -> Array:
        """From `log x` and `x sum(a) - a`, whose sum over the values is zero; `*B`."""
        a, total = self.concentration, self._total
        change = excess / a
        ratio = log_ratio(change, log + jnp.log(total)[..., None] - jnp.log(a))
        terms = a * (ratio - change) + stirling(a) - log
        return jnp.sum(terms, axis=-1) - stirling(total)

    def statistics(self, value: Array) -> dict[str, Array]:
        """`log x`."""
        return {"log": jnp.log(value)}
