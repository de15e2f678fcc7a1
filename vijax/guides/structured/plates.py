"""A Gaussian with the conditional independences that a model's plates imply."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Axes, Batch, Draw, EntropyGuide, NormalNoiseGuide, Position, Space
from vijax.guides.gaussian.normal import require_positive
from vijax.guides.structured.levels import Level, cut, down, join, levels, sharing
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

_LOG_2PI = math.log(2 * math.pi)
_UNIT = 0.25  # between 0, all noise, and 0.5, no end of steps: see docs/decisions.md
_MOST_PRODUCTS = 100  # Hessian products of a step on which an automatic choice may count
_MOST_NUMBERS = 100  # parameters for each coordinate, likewise
_MOST_ABOVE = 20  # the same where steps see batches: so many are read and written for each
_MOST_COORDINATES = 50_000  # likewise: the more rows, the more passes until their gains help


class LevelParams(NamedTuple):
    """`x_r = loc_r + diag(exp(log_scale_r)) (e_r + lower_r e_r + gain_r U e_above(r))`, by level.

    `e` is standard normal noise, `e_above(r)` that of all rows above row `r`: the rows of a
    Cholesky factor, each in units of its own scale, and gains in those of `U = diag(gain_units)`,
    so that one step size suits all parameters. `loc` and `log_scale` are `(*shape, width)`, where
    `shape` has an axis for each of the level's plates, `lower` is `(*shape, width, width)`, never
    read on and above the diagonal, and `gain` `(*shape, width, above)`, where `above` counts the
    coordinates of all rows above one.
    """

    loc: Array
    log_scale: Array
    lower: Array
    gain: Array


class PlatesParams(NamedTuple):
    """Parameters of every level, in the order of `vijax.guides.structured.levels.levels`."""

    levels: tuple[LevelParams, ...]


@dataclasses.dataclass(frozen=True)
class Plates(EntropyGuide, NormalNoiseGuide):
    """`q(z) = q(globals) prod_r q(row_r | globals)`, linear Gaussians along the model's plates.

    The globals, sites in no plate, have a dense covariance. Each row of a plate is a block of
    coordinates over all sites inside it, conditioned on the globals through a linear map of its
    own and independent of the other rows given them: the precision has the shape of an arrow. Rows
    of nested plates are conditioned on the rows round them as well. Time and memory are linear in
    the number of rows, and the family holds the posterior of every linear-Gaussian hierarchy
    exactly. Rows of crossed plates are independent of one another given the globals. Where rows
    come in batches, a step reads and writes the blocks of its rows only.
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
            block, above = (*level.shape, level.width), sum(level.above)
            loc = loc.reshape(block)
            parts.append(
                LevelParams(
                    loc,
                    jnp.full_like(loc, math.log(self.init_scale)),
                    jnp.zeros((*block, level.width), loc.dtype),
                    jnp.zeros((*block, above), loc.dtype),
                )
            )
        return PlatesParams(tuple(parts))

    def row_axes(self, params: PlatesParams, space: Space, plates: Collection[str]) -> PlatesParams:
        found = []
        for level in levels(space):
            pairs = ((name, axis) for axis, name in enumerate(level.plates) if name in plates)
            axes: Any = Axes(tuple(pairs))
            found.append(LevelParams(axes, axes, axes, axes))
        return PlatesParams(tuple(found))

    def draw(self, params: PlatesParams, space: Space, key: Array, batch: Batch) -> Draw:
        dtype = params.levels[0].loc.dtype
        noise = _by_level(space, normals(key, (space.dim,), dtype))
        paths: list[Array] = []  # the noise of each row and of those above it
        parts = []
        for level, own, e in zip(levels(space), _by_row(params, space), noise, strict=True):
            above = _above(paths, level, space)
            away = e + jnp.einsum("rij,rj->ri", jnp.tril(own.lower, -1), e)
            away += jnp.einsum("ria,ra->ri", own.gain, above)
            paths.append(jnp.concatenate([above, e], axis=1))
            parts.append(own.loc + jnp.exp(own.log_scale) * away)
        return Draw(join(space, parts), _log_normal(noise, params, space))

    def log_prob(self, params: PlatesParams, space: Space, z: Position, batch: Batch) -> Array:
        paths: list[Array] = []
        noise = []
        by_row = _by_row(params, space)
        for level, own, x in zip(levels(space), by_row, cut(space, z), strict=True):
            above = _above(paths, level, space)
            away = (x - own.loc) * jnp.exp(-own.log_scale)
            e = _solved(own.lower, away - jnp.einsum("ria,ra->ri", own.gain, above))
            paths.append(jnp.concatenate([above, e], axis=1))
            noise.append(e)
        return _log_normal(noise, params, space)

    def entropy(self, params: PlatesParams, space: Space) -> Array:
        terms = [
            level.scale * (jnp.sum(own.log_scale) + 0.5 * own.log_scale.size * (1 + _LOG_2PI))
            for level, own in zip(levels(space), params.levels, strict=True)
        ]
        return jnp.sum(jnp.stack(terms))


def gain_units(space: Space) -> tuple[np.ndarray, ...]:
    """What the gains of each level are multiplied by, `(above,)`.

    The more rows share a coordinate the less it depends on one of them, and the more the noise in
    all their gains weighs: smaller steps average more of it out, and take longer to arrive.
    """
    return tuple(num**-_UNIT for num in sharing(space))


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
    widths = [level.width for level in levels(space)]
    return sum(widths) <= _MOST_PRODUCTS and _numbers(space) <= _MOST_NUMBERS * space.dim


def suits_batches(space: Space, plates: Collection[str]) -> bool:
    """Whether the rows of these plates, which come in batches, are worth a block each.

    No latents may be in other plates alone, since they keep a dense covariance otherwise; the
    parameters of a row must be few beside what a step costs anyway, but more than those of
    independent coordinates; and the rows so few that their gains are learned in a time that a fit
    takes.
    """
    kept = any(site.plates and not site.axes(plates).pairs for site in space.sites)
    few = space.dim < _numbers(space) <= _MOST_ABOVE * space.dim
    return few and space.dim <= _MOST_COORDINATES and not kept


def _numbers(space: Space) -> int:
    """Covariances and gains, all rows together."""
    return sum(
        level.rows * level.width * (level.width + sum(level.above)) for level in levels(space)
    )


def _by_level(space: Space, noise: Array) -> list[Array]:
    sizes = [level.rows * level.width for level in levels(space)]
    parts = jnp.split(noise, np.cumsum(sizes)[:-1])
    return [
        part.reshape(level.rows, level.width)
        for level, part in zip(levels(space), parts, strict=True)
    ]


def _by_row(params: PlatesParams, space: Space) -> list[LevelParams]:
    """The parameters of each level with one axis of rows, `(rows, ...)`, and gains in full."""
    found = []
    for level, own, unit in zip(levels(space), params.levels, gain_units(space), strict=True):
        leaves = (leaf.reshape(level.rows, *leaf.shape[len(level.shape) :]) for leaf in own)
        rows = LevelParams(*leaves)
        found.append(rows._replace(gain=rows.gain * unit.astype(rows.gain.dtype)))
    return found


def _above(paths: list[Array], level: Level, space: Space) -> Array:
    """The noise of all rows above each row of a level, `(rows, above)`."""
    if level.parent is None:
        return jnp.zeros((level.rows, 0))
    return down(paths[level.parent], level, levels(space)[level.parent])


def _solved(lower: Array, right: Array) -> Array:
    """`e` of `e + (strict lower) e = right`, by row."""
    if right.shape[1] == 1:  # nothing to solve, one call a row to find out
        return right
    return jax.vmap(
        lambda matrix, vector: solve_triangular(matrix, vector, lower=True, unit_diagonal=True)
    )(lower, right)


def _log_normal(noise: list[Array], params: PlatesParams, space: Space) -> Array:
    """Sum of the rows' normal log densities, each scaled as the model's own are."""
    terms = [
        level.scale * (-0.5 * jnp.sum(e**2) - jnp.sum(own.log_scale) - 0.5 * e.size * _LOG_2PI)
        for level, own, e in zip(levels(space), params.levels, noise, strict=True)
    ]
    return jnp.sum(jnp.stack(terms))
