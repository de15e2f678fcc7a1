"""The Gaussian under a flow, as a map from whitened space and back."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Space
from vijax.guides.gaussian.low_rank import LowRankParams
from vijax.guides.gaussian.normal import FullRankParams, MeanFieldParams, cholesky_factor
from vijax.runtime.errors import GuideError


@functools.singledispatch
def color(params: Any, space: Space, x: Array) -> tuple[Array, Array]:
    """`loc + L x` `(dim,)` for the Gaussian `N(loc, L L')`, and `log |L|`.

    Raises:
        GuideError: the base is none that a flow can stand on.
    """
    raise GuideError(
        "base: expected a guide with FullRankParams, LowRankParams or MeanFieldParams (FullRank, "
        f"Laplace, LowRank, MeanField), got one with {type(params).__name__}."
    )


@functools.singledispatch
def whiten(params: Any, space: Space, z: Array) -> tuple[Array, Array]:
    """`L^-1 (z - loc)` and `-log |L|`; the inverse of `color`."""
    raise GuideError(f"base: no way to whiten by {type(params).__name__}.")


@color.register
def _(params: FullRankParams, space: Space, x: Array) -> tuple[Array, Array]:
    return params.loc + cholesky_factor(params) @ x, jnp.sum(params.log_scale)


@whiten.register
def _(params: FullRankParams, space: Space, z: Array) -> tuple[Array, Array]:
    x = solve_triangular(cholesky_factor(params), z - params.loc, lower=True)
    return x, -jnp.sum(params.log_scale)


@color.register
def _(params: MeanFieldParams, space: Space, x: Array) -> tuple[Array, Array]:
    log_scale = space.ravel(params.log_scale)
    return space.ravel(params.loc) + jnp.exp(log_scale) * x, jnp.sum(log_scale)


@whiten.register
def _(params: MeanFieldParams, space: Space, z: Array) -> tuple[Array, Array]:
    log_scale = space.ravel(params.log_scale)
    return (z - space.ravel(params.loc)) * jnp.exp(-log_scale), -jnp.sum(log_scale)


@color.register
def _(params: LowRankParams, space: Space, x: Array) -> tuple[Array, Array]:
    stretches = _stretches(params.factor)
    x, _ = lax.scan(lambda x, w: (_stretch(x, w), None), x, stretches, reverse=True)
    return params.loc + jnp.exp(params.log_scale) * x, _log_det(params, stretches)


@whiten.register
def _(params: LowRankParams, space: Space, z: Array) -> tuple[Array, Array]:
    stretches = _stretches(params.factor)
    x = (z - params.loc) * jnp.exp(-params.log_scale)
    x, _ = lax.scan(lambda x, w: (_shrink(x, w), None), x, stretches)
    return x, -_log_det(params, stretches)


def _stretches(factor: Array) -> Array:
    """`w` `(rank, dim)` with `B B' = I + F F'` for `B = prod_k (I + w_k w_k')^(1/2)`.

    A column `f` of `F` adds `B (I + w w') B'` to what those before it have made, `w = B^-1 f`.
    No other square root is smooth where columns vanish, as those do that a fit has no use for.
    """

    def add(found: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        k, column = now
        # rows that are still zero shrink nothing
        w, _ = lax.scan(lambda x, w: (_shrink(x, w), None), column, found)
        return found.at[k].set(w), None

    columns = factor.T
    return lax.scan(add, jnp.zeros_like(columns), (jnp.arange(len(columns)), columns))[0]


def _stretch(x: Array, w: Array) -> Array:
    """`(I + w w')^(1/2) x`."""
    return x + w * (w @ x) / (1 + jnp.sqrt(1 + w @ w))


def _shrink(x: Array, w: Array) -> Array:
    """`(I + w w')^(-1/2) x`."""
    by = jnp.sqrt(1 + w @ w)
    return x - w * (w @ x) / (by * (1 + by))


def _log_det(params: LowRankParams, stretches: Array) -> Array:
    return jnp.sum(params.log_scale) + 0.5 * jnp.sum(jnp.log1p(jnp.sum(stretches**2, axis=1)))
