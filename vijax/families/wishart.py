"""The Wishart and the inverse Wishart distribution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln

from vijax.families.exponential_family import ExponentialFamily, interpolate
from vijax.families.gamma_variates import log_gamma_variates
from vijax.families.linear_algebra import (
    gram,
    inverse_factor,
    log_det,
    symmetric,
    trace_product,
)
from vijax.families.special import digamma, gamma_entropy, gammaln_divergence

_LOG_2 = math.log(2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Wishart(ExponentialFamily):
    """`X^power ~ Wishart(nu, V)` of symmetric `d x d` matrices.

    The statistics are `value = X^power` and `logdet = log det X^power`. The density is that of `X`:
    for `Y = X^power` proportional to `det(Y)^c exp(-tr(V^-1 Y) / 2)` with
    `c = (nu - power (d + 1)) / 2`.

    Attributes:
        concentration: `nu`, the degrees of freedom, `*B`, more than `d - 1`.
        inverse_scale: `V^-1`, `(*B, d, d)`; the scale matrix of the inverse Wishart distribution.
        power: 1 is the Wishart distribution, -1 the inverse Wishart distribution.

    Raises:
        ValueError: another power.
    """

    concentration: Array
    inverse_scale: Array
    power: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.power not in (1, -1):
            raise ValueError(f"power: expected 1 or -1, got {self.power!r}.")

    @property
    def size(self) -> int:
        """Number of rows of a matrix, `d`."""
        return self.inverse_scale.shape[-1]

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `X^power`, `(*B, d, d)`, and of its log determinant, `*B`."""
        shift = self.power * (self.size + 1)
        return {"value": -0.5 * self.inverse_scale, "logdet": 0.5 * (self.concentration - shift)}

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array], power: int = 1) -> Self:
        """The inverse of `natural`."""
        shift = power * (natural["value"].shape[-1] + 1)
        return cls(2 * natural["logdet"] + shift, -2 * natural["value"], power)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E X^power` and `E log det X^power`."""
        return self.expectations

    @property
    def expectations(self) -> dict[str, Array]:
        """`value = E X^power = nu V`, `(*B, d, d)`, and `logdet = E log det X^power`, `*B`."""
        factor = inverse_factor(self.inverse_scale)
        value = self.concentration[..., None, None] * gram(factor)
        digammas = jnp.sum(digamma(self._halves), axis=-1)
        return {"value": value, "logdet": digammas + self.size * _LOG_2 + 2 * log_det(factor)}

    @property
    def _halves(self) -> Array:
        """`(nu - i) / 2` for `i = 0, ..., d - 1`, `(*B, d)`: Bartlett's gamma variables."""
        return 0.5 * (self.concentration[..., None] - jnp.arange(self.size))

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """`eta' = (1 - r) eta + r dL/d(value, logdet)`."""
        shift = self.power * (self.size + 1)
        return type(self)(
            interpolate(self.concentration, 2 * gradient["logdet"] + shift, rate),
            interpolate(self.inverse_scale, -2 * symmetric(gradient["value"]), rate),
            self.power,
        )

    @property
    def log_normalizer(self) -> Array:
        """`nu / 2 (log det V + d log 2) + log Gamma_d(nu / 2)`."""
        d, factor = self.size, inverse_factor(self.inverse_scale)
        scale = self.concentration * (log_det(factor) + 0.5 * d * _LOG_2)
        return scale + jnp.sum(gammaln(self._halves), axis=-1) + self._log_pi

    @property
    def _log_pi(self) -> float:
        """The constant of the multivariate gamma function."""
        return 0.25 * self.size * (self.size - 1) * math.log(math.pi)

    @property
    def entropy(self) -> Array:
        """That of `X^power`, and for the power -1 the expected log Jacobian of `X`."""
        d, halves = self.size, self._halves
        log_det_scale = 2 * log_det(inverse_factor(self.inverse_scale))
        digammas = digamma(halves)
        parts = gamma_entropy(halves) + 0.5 * (d - 1 - jnp.arange(d)) * digammas
        of_power = (
            jnp.sum(parts, axis=-1)
            + 0.5 * (d + 1) * (log_det_scale + d * _LOG_2)
            + 0.25 * d * (d - 1)
            + self._log_pi
        )
        if self.power == 1:
            return of_power
        return of_power - (d + 1) * (jnp.sum(digammas, axis=-1) + d * _LOG_2 + log_det_scale)

    def divergence(self, other: Self) -> Array:
        """That of `X^power`, of which `X` is a function; both have the same power."""
        factor = inverse_factor(self.inverse_scale)
        ratio = log_det(inverse_factor(other.inverse_scale)) - log_det(factor)
        trace = trace_product(other.inverse_scale, gram(factor)) - self.size
        parts = jnp.sum(gammaln_divergence(other._halves, self._halves), axis=-1)
        return parts + other.concentration * ratio + 0.5 * self.concentration * trace

    def draw(self, key: Array) -> Array:
        """One draw, `(*B, d, d)`, by the decomposition of Bartlett (1933)."""
        diagonal, below = jax.random.split(key)
        scale = self.inverse_scale
        roots = jnp.exp(0.5 * (log_gamma_variates(diagonal, self._halves) + _LOG_2))
        # Products of two of them, and of their inverses, neither underflow nor overflow.
        roots = jnp.maximum(roots, jnp.finfo(scale.dtype).tiny ** 0.25)
        noise = jnp.tril(jax.random.normal(below, scale.shape, scale.dtype), -1)
        bartlett = noise + roots[..., None] * jnp.eye(self.size, dtype=scale.dtype)
        if self.power == 1:  # A A' in the coordinates of the scale
            return gram(bartlett.mT @ inverse_factor(scale))
        return gram(solve_triangular(bartlett, jnp.linalg.cholesky(scale).mT, lower=True))

    def log_prob(self, value: Array) -> Array:
        """The log density of symmetric positive-definite matrices `(*B, d, d)`."""
        eta, statistics = self.natural, self.statistics(value)
        terms = trace_product(eta["value"], statistics["value"])
        return terms + eta["logdet"] * statistics["logdet"] - self.log_normalizer

    def statistics(self, value: Array) -> dict[str, Array]:
        """`X^power` and its log determinant."""
        factor = inverse_factor(value)
        if self.power == 1:
            return {"value": value, "logdet": -2 * log_det(factor)}
        return {"value": gram(factor), "logdet": 2 * log_det(factor)}
