"""Affine bijections: diagonal, triangular, and the identity plus a few directions."""

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
    """`shift` `(dim,)`, `raw` `(rank,)`, the row lengths to be, and `directions` `(dim, rank)`."""

    shift: Array
    raw: Array
    directions: Array


@dataclasses.dataclass(frozen=True)
class Diagonal(Bijection):
    """`y = shift + exp(log_scale) x`, with `log |J| = sum(log_scale)`."""

    def init(self, key: Array, dim: int) -> DiagonalParams:
        return DiagonalParams(jnp.zeros(dim), jnp.zeros(dim))

    def forward(self, params: DiagonalParams, x: Array) -> tuple[Array, Array]:
        return params.shift + jnp.exp(params.log_scale) * x, jnp.sum(params.log_scale)

    def inverse(self, params: DiagonalParams, y: Array) -> tuple[Array, Array]:
        return (y - params.shift) * jnp.exp(-params.log_scale), -jnp.sum(params.log_scale)


@dataclasses.dataclass(frozen=True)
class Triangular(Bijection):
    """`y = shift + L x` with `L = diag(exp(log_scale)) (I + strict lower)`.

    Entries of `lower` on and above the diagonal are never read.
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
    """`y = shift + (I + V diag(s - 1) V') x`: stretched by `s > 0` along a few directions.

    `V` `(dim, rank)` has orthonormal columns, from the QR decomposition of `directions`, so that
    `log |J| = sum(log s)` and the inverse stretches by `1 / s`. Time and memory `dim rank` a point.

    Args:
        rank: number of directions, at most `dim` of them in use.

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
        return params.shift + _stretch(params, params.raw, x), jnp.sum(params.raw)

    def inverse(self, params: LowRankAffineParams, y: Array) -> tuple[Array, Array]:
        return _stretch(params, -params.raw, y - params.shift), -jnp.sum(params.raw)


def _lower(params: TriangularParams) -> Array:
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.shift.size, dtype=params.shift.dtype)
    return jnp.exp(params.log_scale)[:, None] * unit


def _stretch(params: LowRankAffineParams, log_stretch: Array, x: Array) -> Array:
    basis, _ = jnp.linalg.qr(params.directions)
    return x + basis @ (jnp.expm1(log_stretch) * (basis.T @ x))
