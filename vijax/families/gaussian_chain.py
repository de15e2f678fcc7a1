"""The normal distribution of a Markov chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families import block_tridiagonal
from vijax.families.block_tridiagonal import Factors, factorize
from vijax.families.exponential_family import ExponentialFamily, interpolate, over_events
from vijax.families.linear_algebra import inner, outer, product, symmetric, trace_product
from vijax.families.special import LOG_2PI


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianChain(ExponentialFamily):
    """`N(x; mean, precision^-1)` of `n` vectors `x_t`, the precision block-tridiagonal.

    The statistics are `value = x_t`, `outer = x_t x_t'` and `cross = x_{t+1} x_t'`. Marginals take
    one factorization of the precision, which is the smoother in information form: natural
    parameters are expectations of products such as `A' Q^-1 A`, of which a Kalman filter, which
    asks for `A` and `Q`, knows nothing.

    Attributes:
        mean: `(*B, n, k)`.
        precision: its diagonal blocks, `(*B, n, k, k)`, symmetric.
        coupling: the blocks below, `P[t + 1, t]`, `(*B, n - 1, k, k)`.
        factors: of the precision, see `vijax.families.block_tridiagonal`.
    """

    mean: Array
    precision: Array
    coupling: Array
    factors: Factors

    @classmethod
    def of(cls, mean: Array, precision: Array, coupling: Array) -> Self:
        """The distribution with this mean and precision."""
        return cls(mean, precision, coupling, factorize(precision, coupling))

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `x_t`, `(*B, n, k)`, `x_t x_t'`, `(*B, n, k, k)`, and `x_{t+1} x_t'`."""
        value = self._times_precision(self.mean)
        return {"value": value, "outer": -0.5 * self.precision, "cross": -self.coupling}

    def _times_precision(self, x: Array) -> Array:
        found = product(self.precision, x)
        found = found.at[..., 1:, :].add(product(self.coupling, x[..., :-1, :]))
        return found.at[..., :-1, :].add(product(self.coupling.mT, x[..., 1:, :]))

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The inverse of `natural`."""
        precision, coupling = -2 * natural["outer"], -natural["cross"]
        factors = factorize(precision, coupling)
        mean = block_tridiagonal.solve(factors, natural["value"])
        return cls(mean, precision, coupling, factors)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E x_t`, `E x_t x_t'` and `E x_{t+1} x_t'`."""
        of, m = self.expectations, self.mean
        return {
            "value": m,
            "outer": of["covariance"] + outer(m, m),
            "cross": of["cross"] + outer(m[..., 1:, :], m[..., :-1, :]),
        }

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean`; `covariance` of `x_t`, `(*B, n, k, k)`; `cross`, of `x_{t+1}` and `x_t`."""
        blocks = block_tridiagonal.inverse_blocks(self.factors, self.mean.shape[-2])
        return {"mean": self.mean, "covariance": blocks[0], "cross": blocks[1]}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """As for `MultivariateNormal`, by the blocks of the precision on and below the diagonal."""
        of_square = -2 * symmetric(gradient["covariance"])
        precision = interpolate(self.precision, of_square, rate)
        coupling = interpolate(self.coupling, -gradient["cross"], rate)
        factors = factorize(precision, coupling)
        move = block_tridiagonal.solve(factors, gradient["mean"])
        mean = self.mean + over_events(rate, move.ndim) * move
        return type(self)(mean, precision, coupling, factors)

    @property
    def log_normalizer(self) -> Array:
        """`(m' P m - log det P + n k log 2 pi) / 2`."""
        square = jnp.sum(inner(self.mean, self._times_precision(self.mean)), axis=-1)
        return 0.5 * (square + self._size * LOG_2PI) + self._half_log_det_covariance

    @property
    def _size(self) -> int:
        return self.mean.shape[-2] * self.mean.shape[-1]

    @property
    def _half_log_det_covariance(self) -> Array:
        return block_tridiagonal.half_log_det_inverse(self.factors)

    @property
    def entropy(self) -> Array:
        """`(n k + n k log 2 pi - log det P) / 2`."""
        return 0.5 * self._size * (1 + LOG_2PI) + self._half_log_det_covariance

    def divergence(self, other: Self) -> Array:
        """From the precisions, the covariances and the distance of the means."""
        of, change = self.expectations, self.mean - other.mean
        trace = jnp.sum(trace_product(other.precision, of["covariance"]), axis=-1)
        trace += 2 * jnp.sum(trace_product(other.coupling, of["cross"]), axis=-1)
        square = block_tridiagonal.square(other.factors, change)
        determinants = other._half_log_det_covariance - self._half_log_det_covariance
        return 0.5 * (square + trace - self._size) + determinants

    def draw(self, key: Array) -> Array:
        """One draw, `(*B, n, k)`."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + block_tridiagonal.times_root(self.factors, noise)

    def log_prob(self, value: Array) -> Array:
        """The log density of values `(*B, n, k)`."""
        square = block_tridiagonal.square(self.factors, value - self.mean)
        return -0.5 * (square + self._size * LOG_2PI) - self._half_log_det_covariance

    def statistics(self, value: Array) -> dict[str, Array]:
        """`x_t`, `x_t x_t'` and `x_{t+1} x_t'`."""
        cross = outer(value[..., 1:, :], value[..., :-1, :])
        return {"value": value, "outer": outer(value, value), "cross": cross}
