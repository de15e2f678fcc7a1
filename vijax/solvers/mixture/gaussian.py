"""Gaussian components with a full, shared, diagonal or spherical precision matrix.

All have a conjugate prior of mean and precision jointly: `m_k ~ N(m_0, (kappa L_k)^-1)` and a
Wishart or gamma distribution of `L_k`. Source: Pattern Recognition and Machine Learning, Bishop,
2006, section 10.2.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.families.linear_algebra import inner, outer, product
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart
from vijax.families.special import LOG_2PI
from vijax.families.wishart import Wishart
from vijax.solvers.mixture.components import Components


class _Quadratic(Components):
    """Features are all products `a_i a_j` of `a = (1, x)`, `i <= j`."""

    @staticmethod
    def pairs(num_columns: int) -> tuple[np.ndarray, np.ndarray]:
        first, second = np.triu_indices(num_columns + 1)
        return first, second


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FullGaussian(_Quadratic):
    """Every component has a precision matrix of its own.

    Attributes:
        law: of mean and precision, with the batch axis `K`.
    """

    law: NormalWishart

    @property
    def coefficients(self) -> Array:
        """By the mean parameters of the normal-Wishart distribution."""
        found = self.law.mean_parameters
        constant = found["logdet"] - found["quadratic"]
        return _quadratic_form(constant, found["product"], found["value"])

    def updated(self, statistics: Array) -> Self:
        """Adds the statistics to the natural parameters."""
        count, total, second = _moments(statistics, self.law.size)
        eta = self.law.natural
        new = {
            "product": eta["product"] + total,
            "quadratic": eta["quadratic"] - 0.5 * count,
            "value": eta["value"] - 0.5 * second,
            "logdet": eta["logdet"] + 0.5 * count,
        }
        return type(self)(NormalWishart.from_natural(new))

    def divergence(self, prior: Self) -> Array:
        """The sum over components."""
        return jnp.sum(self.law.divergence(prior.law))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TiedGaussian(_Quadratic):
    """All components share one precision matrix, `q(L) prod_k q(m_k | L)`.

    Attributes:
        mean: `(K, d)`.
        kappa: `m_k` given `L` has the precision `kappa_k L`; `(K,)`.
        shared: the distribution of `L`, without batch axes.
    """

    mean: Array
    kappa: Array
    shared: Wishart

    @property
    def coefficients(self) -> Array:
        """Those of a normal-Wishart distribution for each component."""
        found, size = self.shared.expectations, self.mean.shape[-1]
        linear = product(found["value"], self.mean)
        constant = found["logdet"] - size / self.kappa - inner(self.mean, linear)
        value = jnp.broadcast_to(found["value"], (*self.kappa.shape, size, size))
        return _quadratic_form(constant, linear, value)

    def updated(self, statistics: Array) -> Self:
        """Adds the statistics to the natural parameters, those of `L` over all components."""
        count, total, second = _moments(statistics, self.mean.shape[-1])
        kappa = self.kappa + count
        linear = self.kappa[:, None] * self.mean + total
        mean = linear / kappa[:, None]
        before = self.kappa[:, None, None] * outer(self.mean, self.mean)
        spread = before + second - outer(linear, mean)
        shared = Wishart(
            self.shared.concentration + jnp.sum(count),
            self.shared.inverse_scale + jnp.sum(spread, axis=0),
        )
        return type(self)(mean, kappa, shared)

    def divergence(self, prior: Self) -> Array:
        """That of `L`, and the expected ones of the means given `L`."""
        change, ratio = self.mean - prior.mean, prior.kappa / self.kappa
        square = inner(change, product(self.shared.expectations["value"], change))
        size = self.mean.shape[-1]
        normal = prior.kappa * square + size * (ratio - 1 - jnp.log(ratio))
        return self.shared.divergence(prior.shared) + 0.5 * jnp.sum(normal)


class _Squares(Components):
    """Features are `1`, `x_i` and `x_i^2`."""

    @staticmethod
    def pairs(num_columns: int) -> tuple[np.ndarray, np.ndarray]:
        columns = np.arange(1, num_columns + 1)
        zeros = np.zeros_like(columns)
        return np.concatenate([[0], zeros, columns]), np.concatenate([[0], columns, columns])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalGaussian(_Squares):
    """Every column of every component has a precision of its own.

    Attributes:
        law: of mean and precision of one column, with the batch axes `(K, d)` and size 1.
    """

    law: NormalGamma

    @property
    def coefficients(self) -> Array:
        """By the mean parameters of the normal-gamma distribution."""
        found = self.law.mean_parameters
        constant = jnp.sum(found["log"] - found["outer"][..., 0, 0] - LOG_2PI, axis=-1)
        parts = [0.5 * constant[:, None], found["product"][..., 0], -0.5 * found["value"]]
        return jnp.concatenate(parts, axis=-1)

    def updated(self, statistics: Array) -> Self:
        """Adds the statistics to the natural parameters."""
        count, total, squares = _column_moments(statistics)
        eta = self.law.natural
        new = {
            "product": eta["product"] + total[..., None],
            "outer": eta["outer"] - 0.5 * count[:, :, None, None],
            "value": eta["value"] - 0.5 * squares,
            "log": eta["log"] + 0.5 * count,
        }
        return type(self)(NormalGamma.from_natural(new))

    def divergence(self, prior: Self) -> Array:
        """The sum over components and columns."""
        return jnp.sum(self.law.divergence(prior.law))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SphericalGaussian(_Squares):
    """Every component has one precision for all columns.

    Attributes:
        law: of mean and precision, with the batch axis `K` and size `d`.
    """

    law: NormalGamma

    @property
    def coefficients(self) -> Array:
        """By the mean parameters of the normal-gamma distribution."""
        found, size = self.law.mean_parameters, self.law.size
        squares = jnp.trace(found["outer"], axis1=-2, axis2=-1)
        constant = 0.5 * (size * (found["log"] - LOG_2PI) - squares)
        value = jnp.broadcast_to(-0.5 * found["value"][:, None], found["product"].shape)
        return jnp.concatenate([constant[:, None], found["product"], value], axis=-1)

    def updated(self, statistics: Array) -> Self:
        """Adds the statistics to the natural parameters."""
        count, total, squares = _column_moments(statistics)
        eta, size = self.law.natural, self.law.size
        new = {
            "product": eta["product"] + total,
            "outer": eta["outer"] - 0.5 * count[..., None] * jnp.eye(size, dtype=total.dtype),
            "value": eta["value"] - 0.5 * jnp.sum(squares, axis=-1),
            "log": eta["log"] + 0.5 * size * count[:, 0],
        }
        return type(self)(NormalGamma.from_natural(new))

    def divergence(self, prior: Self) -> Array:
        """The sum over components."""
        return jnp.sum(self.law.divergence(prior.law))


def _quadratic_form(constant: Array, linear: Array, value: Array) -> Array:
    """`(constant - d log 2 pi) / 2 + linear' x - x' value x / 2` on products of `(1, x)`."""
    size = linear.shape[-1]
    first, second = np.triu_indices(size)
    twice = jnp.asarray(np.where(first == second, 0.5, 1.0), value.dtype)
    below = -twice * value[..., first, second]
    constant = 0.5 * (constant - size * LOG_2PI)
    return jnp.concatenate([constant[..., None], linear, below], axis=-1)


def _moments(statistics: Array, size: int) -> tuple[Array, Array, Array]:
    """Counts `(K,)`, sums `(K, d)` and sums of products `(K, d, d)`."""
    first, second = np.triu_indices(size)
    place = np.zeros((size, size), int)
    place[first, second] = place[second, first] = np.arange(len(first))
    return statistics[:, 0], statistics[:, 1 : size + 1], statistics[:, size + 1 :][:, place]


def _column_moments(statistics: Array) -> tuple[Array, Array, Array]:
    """Counts `(K, 1)`, sums and sums of squares `(K, d)`."""
    total, squares = jnp.split(statistics[:, 1:], 2, axis=-1)
    return statistics[:, :1], total, squares
