"""The Gaussian under a flow, as a map from whitened space and back."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax._contracts import Space
from vijax._errors import GuideError
from vijax.guides.normal import FullRankParams, MeanFieldParams, cholesky_factor


@functools.singledispatch
def colour(params: Any, space: Space, x: Array) -> tuple[Array, Array]:
    """`loc + L x` `(dim,)` for the Gaussian `N(loc, L L')`, and `log |L|`.

    Raises:
        GuideError: the base is none that a flow can stand on.
    """
    raise GuideError(
        "base: expected a guide with FullRankParams or MeanFieldParams (FullRank, Laplace, "
        f"MeanField), got one with {type(params).__name__}."
    )


@functools.singledispatch
def whiten(params: Any, space: Space, z: Array) -> tuple[Array, Array]:
    """`L^-1 (z - loc)` and `-log |L|`; the inverse of `colour`."""
    raise GuideError(f"base: no way to whiten by {type(params).__name__}.")


@colour.register
def _(params: FullRankParams, space: Space, x: Array) -> tuple[Array, Array]:
    return params.loc + cholesky_factor(params) @ x, jnp.sum(params.log_scale)


@whiten.register
def _(params: FullRankParams, space: Space, z: Array) -> tuple[Array, Array]:
    x = solve_triangular(cholesky_factor(params), z - params.loc, lower=True)
    return x, -jnp.sum(params.log_scale)


@colour.register
def _(params: MeanFieldParams, space: Space, x: Array) -> tuple[Array, Array]:
    log_scale = space.ravel(params.log_scale)
    return space.ravel(params.loc) + jnp.exp(log_scale) * x, jnp.sum(log_scale)


@whiten.register
def _(params: MeanFieldParams, space: Space, z: Array) -> tuple[Array, Array]:
    log_scale = space.ravel(params.log_scale)
    return (z - space.ravel(params.loc)) * jnp.exp(-log_scale), -jnp.sum(log_scale)
