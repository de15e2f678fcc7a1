"""The plates guide: a Gaussian with the conditional independences implied by the plates."""

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
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import gaussian_entropy, gaussian_log_prob
from vijax.guides.structured.plate_levels import (
    Level,
    join_levels,
    levels,
    sharing_counts,
    split_levels,
    take_parents,
)
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

# Exponent of the gain units: 0 leaves noisy gradients, 0.5 slow steps, see docs/decisions.md.
_GAIN_UNIT_EXPONENT = 0.25
# Limits of the automatic choice: Hessian-vector products per step, parameters per coordinate, and
# for minibatches parameters per coordinate (read and written at every step) and coordinates (with
# more rows, more epochs pass before fitted gains improve the ELBO).
_MAX_PRODUCTS = 100
_MAX_PARAMETERS = 100
_MAX_BATCH_PARAMETERS = 20
_MAX_BATCH_COORDINATES = 50_000


class LevelParams(NamedTuple):
    """One level: `x_r = loc_r + diag(exp(log_scale_r)) (e_r + lower_r e_r + gain_r U e_anc(r))`.

    `e` is standard normal noise, `e_anc(r)` that of all ancestors of row `r`. These are the rows
    of a Cholesky factor in units of their scale, with gains in units `U = diag(gain_units)`, so
    that one step size suits all parameters. `loc` and `log_scale` are `(*shape, width)`, where
    `shape` has an axis for each of the level's plates; `lower` is `(*shape, width, width)`, ignored
    on and above the diagonal; `gain` is `(*shape, width, ancestor_dim)`, where `ancestor_dim` is
    the number of coordinates of all ancestors of a row.
    """

    loc: Array
    log_scale: Array
    lower: Array
    gain: Array


class PlatesParams(NamedTuple):
    """Parameters of every level, in the order of `vijax.guides.structured.plate_levels.levels`."""

    levels: tuple[LevelParams, ...]


@dataclasses.dataclass(frozen=True)
class Plates(EntropyGuide, NormalNoiseGuide):
    """Hierarchical Gaussian: `q(z) = q(globals) prod_r q(row_r | globals)`, linear Gaussian.

    Global latents, the sites in no plate, have a dense covariance. Each row of a plate is a block
    of the coordinates of all sites inside it. Rows depend linearly on the globals, with
    coefficients for each row, and are conditionally independent given the globals: the precision
    has arrow structure. Rows of nested plates also depend on the enclosing rows; rows of crossed
    plates are conditionally independent given the globals. Time and memory are linear in the number
    of rows, and the family contains the posterior of every linear-Gaussian hierarchical model. With
    minibatches a step reads and writes only the blocks of its rows. Source: Gaussian variational
    approximation with sparse precision matrices, Tan, Nott, 2018.

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
        _require_plates(space)
        parts = []
        for level, loc in zip(levels(space), split_levels(space, location), strict=True):
            block, ancestor_dim = (*level.shape, level.width), sum(level.ancestor_widths)
            loc = loc.reshape(block)
            parts.append(
                LevelParams(
                    loc,
                    jnp.full_like(loc, math.log(self.init_scale)),
                    jnp.zeros((*block, level.width), loc.dtype),
                    jnp.zeros((*block, ancestor_dim), loc.dtype),
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
        paths: list[Array] = []  # the noise of each row and its ancestors
        parts = []
        for level, rows, e in zip(levels(space), _by_row(params, space), noise, strict=True):
            ancestors = _ancestor_noise(paths, level, space)
            residual = e + jnp.einsum("rij,rj->ri", jnp.tril(rows.lower, -1), e)
            residual += jnp.einsum("ria,ra->ri", rows.gain, ancestors)
            paths.append(jnp.concatenate([ancestors, e], axis=1))
            parts.append(rows.loc + jnp.exp(rows.log_scale) * residual)
        return Draw(join_levels(space, parts), _log_prob(noise, params, space))

    def log_prob(self, params: PlatesParams, space: Space, z: Position, batch: Batch) -> Array:
        paths: list[Array] = []
        noise = []
        by_row = _by_row(params, space)
        for level, rows, x in zip(levels(space), by_row, split_levels(space, z), strict=True):
            ancestors = _ancestor_noise(paths, level, space)
            residual = (x - rows.loc) * jnp.exp(-rows.log_scale)
            e = _solve(rows.lower, residual - jnp.einsum("ria,ra->ri", rows.gain, ancestors))
            paths.append(jnp.concatenate([ancestors, e], axis=1))
            noise.append(e)
        return _log_prob(noise, params, space)

    def entropy(self, params: PlatesParams, space: Space) -> Array:
        terms = [
            level.scale * gaussian_entropy(rows.log_scale)
            for level, rows in zip(levels(space), params.levels, strict=True)
        ]
        return jnp.sum(jnp.stack(terms))


def gain_units(space: Space) -> tuple[np.ndarray, ...]:
    """Units of the gains of each level, `(ancestor_dim,)`.

    The more rows share a coordinate, the less it depends on any one of them, and the larger the
    total noise of their gains. Smaller units mean smaller steps, which average out more of the
    noise but converge more slowly.
    """
    return tuple(num**-_GAIN_UNIT_EXPONENT for num in sharing_counts(space))


def _require_plates(space: Space) -> None:
    """Raises if no site of a space is inside a plate.

    Raises:
        GuideError: naming the sites.
    """
    if not any(site.plates for site in space.sites):
        raise GuideError(
            mismatch(
                "Plates",
                "a site inside a numpyro.plate",
                f"none, in sites {list(space.names)}",
                "Put repeated variables in a plate, or use guide='fullrank' or 'lowrank'.",
            )
        )


def plates_affordable(space: Space) -> bool:
    """Whether there are plates with small row blocks, so that costs stay linear in the rows."""
    if not any(site.plates for site in space.sites):
        return False
    widths = [level.width for level in levels(space)]
    return sum(widths) <= _MAX_PRODUCTS and _num_entries(space) <= _MAX_PARAMETERS * space.dim


def plates_affordable_on_batches(space: Space, plates: Collection[str]) -> bool:
    """Whether blocks for the rows of these subsampled plates are worth their cost.

    No site may be only in other plates, since it would otherwise have a dense covariance. The
    parameters of a row must be cheap relative to a step, but more than those of a mean-field
    guide, and the rows few enough that their gains converge within a typical fit.
    """
    not_subsampled = any(site.plates and not site.axes(plates).pairs for site in space.sites)
    few = space.dim < _num_entries(space) <= _MAX_BATCH_PARAMETERS * space.dim
    return few and space.dim <= _MAX_BATCH_COORDINATES and not not_subsampled


def _num_entries(space: Space) -> int:
    """Number of entries of the covariance blocks and gains of all rows."""
    return sum(
        level.rows * level.width * (level.width + sum(level.ancestor_widths))
        for level in levels(space)
    )


def _by_level(space: Space, noise: Array) -> list[Array]:
    """The noise of each level, `(rows, width)`."""
    sizes = [level.rows * level.width for level in levels(space)]
    parts = jnp.split(noise, np.cumsum(sizes)[:-1])
    return [
        part.reshape(level.rows, level.width)
        for level, part in zip(levels(space), parts, strict=True)
    ]


def _by_row(params: PlatesParams, space: Space) -> list[LevelParams]:
    """The parameters of each level with one axis of rows, gains times their units."""
    found = []
    for level, values, unit in zip(levels(space), params.levels, gain_units(space), strict=True):
        leaves = (leaf.reshape(level.rows, *leaf.shape[len(level.shape) :]) for leaf in values)
        rows = LevelParams(*leaves)
        found.append(rows._replace(gain=rows.gain * unit.astype(rows.gain.dtype)))
    return found


def _ancestor_noise(paths: list[Array], level: Level, space: Space) -> Array:
    """The noise of all ancestors of each row of a level, `(rows, ancestor_dim)`."""
    if level.parent is None:
        return jnp.zeros((level.rows, 0))
    return take_parents(paths[level.parent], level, levels(space)[level.parent])


def _solve(lower: Array, right: Array) -> Array:
    """The solution `e` of `e + (strict lower) e = right`, by row."""
    if right.shape[1] == 1:  # saves one solver call per row
        return right
    return jax.vmap(
        lambda matrix, vector: solve_triangular(matrix, vector, lower=True, unit_diagonal=True)
    )(lower, right)


def _log_prob(noise: list[Array], params: PlatesParams, space: Space) -> Array:
    """Sum of the levels' log densities, each multiplied by `Site.scale` as in the model."""
    terms = [
        level.scale * gaussian_log_prob(e, rows.log_scale)
        for level, rows, e in zip(levels(space), params.levels, noise, strict=True)
    ]
    return jnp.sum(jnp.stack(terms))
