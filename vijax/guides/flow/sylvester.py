"""Sylvester flows: planar ones in several orthogonal directions at once."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.guides.flow import root
from vijax.guides.flow.bijection import Bijection, default_float, polish
from vijax.guides.flow.positive import above_minus_one
from vijax.runtime.errors import GuideError, mismatch


class SylvesterParams(NamedTuple):
    """`directions` `(dim, width)`, `outer` and `inner` `(width, width)`, `offset` `(width,)`."""

    directions: Array
    outer: Array
    inner: Array
    offset: Array


@dataclasses.dataclass(frozen=True)
class Sylvester(Bijection):
    """`y = x + Q A tanh(B Q'x + b)` with `Q` orthonormal and `A`, `B` upper triangular.

    `log |J| = sum_i log(1 + (1 - tanh_i^2) A_ii B_ii)`; the products `A_ii B_ii` are kept above
    -1 and are zero at the start, where `A` is. The inverse takes `width` scalar roots, last
    coordinate first. Entries below the diagonals are never read. Source: Sylvester Normalizing
    Flows for Variational Inference, van den Berg, Hasenclever, Tomczak, Welling, 2018.

    Args:
        width: number of directions, at most `dim` of them in use.

    Raises:
        GuideError: `width` is less than one.
    """

    cheap_inverse: ClassVar[bool] = False
    width: int = 8

    def __post_init__(self) -> None:
        if self.width < 1:
            raise GuideError(mismatch("width", "at least 1", self.width))

    def init(self, key: Array, dim: int) -> SylvesterParams:
        width = min(self.width, dim)
        directions, inner = jax.random.split(key)
        return SylvesterParams(
            jax.random.normal(directions, (dim, width), default_float()),
            jnp.zeros((width, width)),
            0.1 * jax.random.normal(inner, (width, width), default_float()),
            jnp.zeros(width),
        )

    def forward(self, params: SylvesterParams, x: Array) -> tuple[Array, Array]:
        basis, outer, inner, products = _matrices(params)
        ridge = jnp.tanh(inner @ (basis.T @ x) + params.offset)
        return x + basis @ (outer @ ridge), jnp.sum(jnp.log1p((1 - ridge**2) * products))

    def inverse(self, params: SylvesterParams, y: Array) -> tuple[Array, Array]:
        basis, outer, inner, _ = _matrices(params)

        def image(v: Array) -> Array:
            return v + outer @ jnp.tanh(inner @ v + params.offset)

        inside = root.by_coordinate(image, basis.T @ y, last_first=True)
        x = y - basis @ (outer @ jnp.tanh(inner @ inside + params.offset))
        return polish(self, params, y, x)


def _matrices(params: SylvesterParams) -> tuple[Array, Array, Array, Array]:
    """`Q`, `A`, `B` and the products of their diagonals."""
    basis, _ = jnp.linalg.qr(params.directions)
    products = above_minus_one(jnp.diag(params.outer))
    own = jnp.exp(jnp.diag(params.inner))
    outer = jnp.triu(params.outer, 1) + jnp.diag(products / own)
    inner = jnp.triu(params.inner, 1) + jnp.diag(own)
    return basis, outer, inner, products
