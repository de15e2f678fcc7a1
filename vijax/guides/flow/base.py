"""The Gaussian base distribution of a flow: coloring and whitening maps."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Space
from vijax.guides.location_scale.full_rank import FullRankParams, cholesky_factor
from vijax.guides.location_scale.low_rank import LowRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.runtime.errors import GuideError


@functools.singledispatch
def color(params: Any, space: Space, x: Array) -> tuple[Array, Array]:
    """`loc + L x` `(dim,)` for the Gaussian `N(loc, L L')`, and `log |L|`.

    Raises:
        GuideError: the base is not a supported Gaussian.
    """
    raise GuideError(
        "base: expected a guide with FullRankParams, LowRankParams or MeanFieldParams (FullRank, "
        f"Laplace, LowRank, MeanField), got one with {type(params).__name__}."
    )


@functools.singledispatch
def whiten(params: Any, space: Space, z: Array) -> tuple[Array, Array]:
    """`L^-1 (z - loc)` and `-log |L|`; the inverse of `color`."""
    raise GuideError(f"base: whitening is not implemented for {type(params).__name__}.")


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
    updates = _rank_one_updates(params.factor)
    x, _ = lax.scan(lambda x, w: (_root(x, w), None), x, updates, reverse=True)
    return params.loc + jnp.exp(params.log_scale) * x, _log_det(params, updates)


@whiten.register
def _(params: LowRankParams, space: Space, z: Array) -> tuple[Array, Array]:
    updates = _rank_one_updates(params.factor)
    x = (z - params.loc) * jnp.exp(-params.log_scale)
    x, _ = lax.scan(lambda x, w: (_inverse_root(x, w), None), x, updates)
    return x, -_log_det(params, updates)


def _rank_one_updates(factor: Array) -> Array:
    """`w` `(rank, dim)` with `B B' = I + F F'` for `B = prod_k (I + w_k w_k')^(1/2)`.

    For `B` of the preceding columns, a column `f` of `F` gives `B B' + f f' = B (I + w w') B'` with
    `w = B^-1 f`. Unlike other square roots, this one is smooth where columns vanish, as unneeded
    ones do during a fit.
    """

    def add(found: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        k, column = inputs
        # rows not yet set are zero, so their factor is the identity
        w, _ = lax.scan(lambda x, w: (_inverse_root(x, w), None), column, found)
        return found.at[k].set(w), None

    columns = factor.T
    return lax.scan(add, jnp.zeros_like(columns), (jnp.arange(len(columns)), columns))[0]


def _root(x: Array, w: Array) -> Array:
    """`(I + w w')^(1/2) x`."""
    return x + w * (w @ x) / (1 + jnp.sqrt(1 + w @ w))


def _inverse_root(x: Array, w: Array) -> Array:
    """`(I + w w')^(-1/2) x`."""
    norm = jnp.sqrt(1 + w @ w)
    return x - w * (w @ x) / (norm * (1 + norm))


def _log_det(params: LowRankParams, updates: Array) -> Array:
    """`log |L|`, half the log determinant of the covariance."""
    return jnp.sum(params.log_scale) + 0.5 * jnp.sum(jnp.log1p(jnp.sum(updates**2, axis=1)))
