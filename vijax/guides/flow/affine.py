"""Affine bijections: diagonal, triangular, low-rank and LU."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.guides.flow.bijection import Bijection, default_float
from vijax.runtime.errors import GuideError, mismatch


class DiagonalParams(NamedTuple):
    """`shift` and `log_scale`, both `(dim,)`."""

    shift: Array
    log_scale: Array


class TriangularParams(NamedTuple):
    """`shift`, `log_scale` `(dim,)` and the strict lower triangle of `lower` `(dim, dim)`."""

    shift: Array
    log_scale: Array
    lower: Array


class LowRankAffineParams(NamedTuple):
    """`shift` `(dim,)`, `log_stretch` `(rank,)`, and `directions` `(dim, rank)`."""

    shift: Array
    log_stretch: Array
    directions: Array


class LUParams(NamedTuple):
    """`lower` and `upper` `(dim, dim)`, of which the strict triangles are used; `log_diagonal`."""

    lower: Array
    upper: Array
    log_diagonal: Array


@dataclasses.dataclass(frozen=True)
class Diagonal(Bijection):
    """Diagonal affine map: `y = shift + exp(log_scale) x`, with `log |J| = sum(log_scale)`."""

    def init(self, key: Array, dim: int) -> DiagonalParams:
        return DiagonalParams(jnp.zeros(dim), jnp.zeros(dim))

    def forward(self, params: DiagonalParams, x: Array) -> tuple[Array, Array]:
        return params.shift + jnp.exp(params.log_scale) * x, jnp.sum(params.log_scale)

    def inverse(self, params: DiagonalParams, y: Array) -> tuple[Array, Array]:
        return (y - params.shift) * jnp.exp(-params.log_scale), -jnp.sum(params.log_scale)


@dataclasses.dataclass(frozen=True)
class Triangular(Bijection):
    """Triangular affine map: `y = shift + L x`, `L = diag(exp(log_scale)) (I + strict lower)`.

    `log |J| = sum(log_scale)`. Entries of `lower` on and above the diagonal are ignored.
    """

    def init(self, key: Array, dim: int) -> TriangularParams:
        return TriangularParams(jnp.zeros(dim), jnp.zeros(dim), jnp.zeros((dim, dim)))

    def forward(self, params: TriangularParams, x: Array) -> tuple[Array, Array]:
        return params.shift + _lower(params) @ x, jnp.sum(params.log_scale)

    def inverse(self, params: TriangularParams, y: Array) -> tuple[Array, Array]:
        x = solve_triangular(_lower(params), y - params.shift, lower=True)
        return x, -jnp.sum(params.log_scale)


@dataclasses.dataclass(frozen=True)
class LowRankAffine(Bijection):
    """Low-rank affine map: `y = shift + (I + V diag(s - 1) V') x`, `s > 0`.

    `V` `(dim, rank)` has orthonormal columns, from the QR decomposition of `directions`, so that
    `log |J| = sum(log s)` and the inverse has `1 / s`. Time and memory are `dim rank` per point.

    Args:
        rank: number of directions; at most `dim` are used.

    Raises:
        GuideError: `rank` is less than one.
    """

    rank: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise GuideError(mismatch("rank", "at least 1", self.rank))

    def init(self, key: Array, dim: int) -> LowRankAffineParams:
        rank = min(self.rank, dim)
        directions = jax.random.normal(key, (dim, rank), default_float())
        return LowRankAffineParams(jnp.zeros(dim), jnp.zeros(rank), directions)

    def forward(self, params: LowRankAffineParams, x: Array) -> tuple[Array, Array]:
        return params.shift + _stretch(params, params.log_stretch, x), jnp.sum(params.log_stretch)

    def inverse(self, params: LowRankAffineParams, y: Array) -> tuple[Array, Array]:
        return _stretch(params, -params.log_stretch, y - params.shift), -jnp.sum(params.log_stretch)


@dataclasses.dataclass(frozen=True)
class LU(Bijection):
    """Linear map `y = L U x`: `L` unit lower triangular, `U` upper with a positive diagonal.

    `log |J| = sum(log_diagonal)`, and the inverse takes two triangular solves. Source: Glow:
    Generative Flow with Invertible 1x1 Convolutions, Kingma and Dhariwal, 2018.
    """

    def init(self, key: Array, dim: int) -> LUParams:
        return LUParams(jnp.zeros((dim, dim)), jnp.zeros((dim, dim)), jnp.zeros(dim))

    def forward(self, params: LUParams, x: Array) -> tuple[Array, Array]:
        lower, upper = _lu_factors(params)
        return lower @ (upper @ x), jnp.sum(params.log_diagonal)

    def inverse(self, params: LUParams, y: Array) -> tuple[Array, Array]:
        lower, upper = _lu_factors(params)
        half = solve_triangular(lower, y, lower=True, unit_diagonal=True)
        return solve_triangular(upper, half, lower=False), -jnp.sum(params.log_diagonal)


def _lower(params: TriangularParams) -> Array:
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.shift.size, dtype=params.shift.dtype)
    return jnp.exp(params.log_scale)[:, None] * unit


def _stretch(params: LowRankAffineParams, log_stretch: Array, x: Array) -> Array:
    basis, _ = jnp.linalg.qr(params.directions)
    return x + basis @ (jnp.expm1(log_stretch) * (basis.T @ x))


def _lu_factors(params: LUParams) -> tuple[Array, Array]:
    unit = jnp.eye(params.log_diagonal.size, dtype=params.lower.dtype)
    diagonal = jnp.diag(jnp.exp(params.log_diagonal))
    return jnp.tril(params.lower, -1) + unit, jnp.triu(params.upper, 1) + diagonal
