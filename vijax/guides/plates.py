"""A Gaussian with the conditional independences that a model's plates imply."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax._contracts import Batch, Draw, EntropyGuide, Position, Space
from vijax._errors import GuideError, mismatch
from vijax.guides.levels import cut, down, join, levels
from vijax.guides.normal import require_positive

_LOG_2PI = math.log(2 * math.pi)
_MOST_PRODUCTS = 100  # Hessian products of a step on which an automatic choice may count
_MOST_NUMBERS = 100  # parameters for each coordinate, likewise


class LevelParams(NamedTuple):
    """`x_r - loc_r = gain_r (x_above(r) - loc_above(r)) + L_r e_r` for the rows of one level.

    `L_r = diag(exp(log_scale_r)) (I + strict lower of lower_r)`. `loc` and `log_scale` are
    `(rows, width)`, `lower` is `(rows, width, width)`, never read on and above the diagonal, and
    `gain` `(rows, width, above)`, where `above` counts the coordinates of all rows above one.
    """

    loc: Array
    log_scale: Array
    lower: Array
    gain: Array


class PlatesParams(NamedTuple):
    """Parameters of every level, in the order of `vijax.guides.levels.levels`."""

    levels: tuple[LevelParams, ...]


@dataclasses.dataclass(frozen=True)
class Plates(EntropyGuide):
    """`q(z) = q(globals) prod_r q(row_r | globals)`, linear Gaussians along the model's plates.

    The globals, sites in no plate, have a dense covariance. Each row of a plate is a block of
    coordinates over all sites inside it, conditioned on the globals through a linear map of its
    own and independent of the other rows given them: the precision has the shape of an arrow. Rows
    of nested plates are conditioned on the rows round them as well. Time and memory are linear in
    the number of rows, and the family holds the posterior of every linear-Gaussian hierarchy
    exactly. Rows of crossed plates are independent of one another given the globals.
    Source: Gaussian variational approximation with sparse precision matrices, Tan, Nott, 2018.

    Args:
        init_scale: standard deviation of every coordinate at the start.

    >>> Plates()
    Plates(init_scale=0.1)
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PlatesParams:
        require_plates(space)
        parts = []
        for level, loc in zip(levels(space), cut(space, location), strict=True):
            rows, width, above = level.rows, level.width, sum(level.above)
            parts.append(
                LevelParams(
                    loc,
                    jnp.full_like(loc, math.log(self.init_scale)),
                    jnp.zeros((rows, width, width), loc.dtype),
                    jnp.zeros((rows, width, above), loc.dtype),
                )
            )
        return PlatesParams(tuple(parts))

    def draw(self, params: PlatesParams, space: Space, key: Array, batch: Batch) -> Draw:
        dtype = params.levels[0].loc.dtype
        noise = _by_level(space, jax.random.normal(key, (space.dim,), dtype))
        paths: list[Array] = []  # what each row and those above it are away from their means
        parts = []
        for level, own, e in zip(levels(space), params.levels, noise, strict=True):
            away = jnp.einsum("rij,rj->ri", _factors(own), e)
            if level.parent is not None:
                above = down(paths[level.parent], level, levels(space)[level.parent])
                away += jnp.einsum("ria,ra->ri", own.gain, above)
                paths.append(jnp.concatenate([above, away], axis=1))
            else:
                paths.append(away)
            parts.append(own.loc + away)
        return Draw(join(space, parts), _log_normal(noise, params))

    def log_prob(self, params: PlatesParams, space: Space, z: Position, batch: Batch) -> Array:
        paths: list[Array] = []
        noise = []
        solve = jax.vmap(lambda lower, shock: solve_triangular(lower, shock, lower=True))
        for level, own, x in zip(levels(space), params.levels, cut(space, z), strict=True):
            away = x - own.loc
            shock = away
            if level.parent is not None:
                above = down(paths[level.parent], level, levels(space)[level.parent])
                shock = away - jnp.einsum("ria,ra->ri", own.gain, above)
                away = jnp.concatenate([above, away], axis=1)
            paths.append(away)
            noise.append(solve(_factors(own), shock))
        return _log_normal(noise, params)

    def entropy(self, params: PlatesParams, space: Space) -> Array:
        log_dets = jnp.stack([jnp.sum(own.log_scale) for own in params.levels])
        return jnp.sum(log_dets) + 0.5 * space.dim * (1 + _LOG_2PI)


def require_plates(space: Space) -> None:
    """Refuses a space none of whose sites is in a plate.

    Raises:
        GuideError: naming the sites.
    """
    if not any(site.plates for site in space.sites):
        raise GuideError(
            mismatch(
                "Plates",
                "a site inside a numpyro.plate",
                f"none, in sites {list(space.names)}",
                "Put what is repeated into a plate, or use guide='fullrank' or 'lowrank'.",
            )
        )


def suits(space: Space) -> bool:
    """Whether there are plates and the blocks along them small, so that all costs stay linear."""
    if not any(site.plates for site in space.sites):
        return False
    found = levels(space)
    widths = [level.width for level in found]
    numbers = sum(level.rows * level.width * (level.width + sum(level.above)) for level in found)
    return sum(widths) <= _MOST_PRODUCTS and numbers <= _MOST_NUMBERS * space.dim


def _by_level(space: Space, noise: Array) -> list[Array]:
    sizes = [level.rows * level.width for level in levels(space)]
    parts = jnp.split(noise, np.cumsum(sizes)[:-1])
    return [
        part.reshape(level.rows, level.width)
        for level, part in zip(levels(space), parts, strict=True)
    ]


def _factors(own: LevelParams) -> Array:
    """`L_r`, `(rows, width, width)`."""
    unit = jnp.tril(own.lower, -1) + jnp.eye(own.loc.shape[1], dtype=own.loc.dtype)
    return jnp.exp(own.log_scale)[:, :, None] * unit


def _log_normal(noise: list[Array], params: PlatesParams) -> Array:
    terms = [
        -0.5 * jnp.sum(e**2) - jnp.sum(own.log_scale) - 0.5 * e.size * _LOG_2PI
        for e, own in zip(noise, params.levels, strict=True)
    ]
    return jnp.sum(jnp.stack(terms))
