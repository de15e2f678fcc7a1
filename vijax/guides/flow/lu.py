"""Linear mixing of all coordinates, learned."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.guides.flow.bijection import Bijection


class LUParams(NamedTuple):
    """`lower` and `upper` `(dim, dim)`, of which the strict triangles are read; `log_diagonal`."""

    lower: Array
    upper: Array
    log_diagonal: Array


@dataclasses.dataclass(frozen=True)
class LU(Bijection):
    """`y = L U x`: `L` unit lower triangular, `U` upper triangular with a positive diagonal.

    `log |J| = sum(log_diagonal)`, the inverse is two triangular solves. Source: Glow: Generative
    Flow with Invertible 1x1 Convolutions, Kingma and Dhariwal, 2018.
    """

    def init(self, key: Array, dim: int) -> LUParams:
        return LUParams(jnp.zeros((dim, dim)), jnp.zeros((dim, dim)), jnp.zeros(dim))

    def forward(self, params: LUParams, x: Array) -> tuple[Array, Array]:
        lower, upper = _factors(params)
        return lower @ (upper @ x), jnp.sum(params.log_diagonal)

    def inverse(self, params: LUParams, y: Array) -> tuple[Array, Array]:
        lower, upper = _factors(params)
        between = solve_triangular(lower, y, lower=True, unit_diagonal=True)
        return solve_triangular(upper, between, lower=False), -jnp.sum(params.log_diagonal)


def _factors(params: LUParams) -> tuple[Array, Array]:
    unit = jnp.eye(params.log_diagonal.size, dtype=params.lower.dtype)
    diagonal = jnp.diag(jnp.exp(params.log_diagonal))
    return jnp.tril(params.lower, -1) + unit, jnp.triu(params.upper, 1) + diagonal
