"""Partition of the latent coordinates by the model's plates into a tree of rows.

Sites inside the same plates form a level: one row per index into the plates, with a block of
coordinates in each row. Global sites, those in no plate, are the single row of the first level.
The parent of a level is the level that shares the most plates with it, so that every row has one
parent row. Given its ancestors, each row is independent of all rows but its descendants.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Plate, Position, Site, Space


class Level(NamedTuple):
    """The sites inside the same plates.

    Attributes:
        sites: in the order of the space.
        plates: names of the plates, the leftmost axis first.
        shape: their sizes.
        parent: index of the parent level, `None` if there is none.
        ancestor_widths: number of coordinates in a row of each ancestor level, root first.
    """

    sites: tuple[Site, ...]
    plates: tuple[str, ...]
    shape: tuple[int, ...]
    parent: int | None
    ancestor_widths: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def width(self) -> int:
        """Number of coordinates in a row."""
        return sum(site.size for site in self.sites) // self.rows

    @property
    def scale(self) -> float:
        """Factor of the log density of its rows, see `Site.scale`."""
        return self.sites[0].scale


@functools.lru_cache
def levels(space: Space) -> tuple[Level, ...]:
    """The levels of a space, each after its parent."""
    groups: dict[frozenset[str], list[Site]] = {}
    for site in space.sites:
        groups.setdefault(frozenset(plate.name for plate in site.plates), []).append(site)
    keys = sorted(groups, key=len)
    found: list[Level] = []
    for key in keys:
        subsets = [i for i, other in enumerate(keys[: len(found)]) if other < key]
        parent = max(subsets, key=lambda i: len(keys[i]), default=None)
        widths = () if parent is None else (*found[parent].ancestor_widths, found[parent].width)
        first = groups[key][0]
        order = sorted(first.plates, key=lambda plate: plate.dim)
        shape = tuple(first.z_shape[axis] for axis in _axes(first, order))
        names = tuple(plate.name for plate in order)
        found.append(Level(tuple(groups[key]), names, shape, parent, widths))
    return tuple(found)


def parent_rows(level: Level, parent: Level) -> np.ndarray:
    """The index of the parent row of each row of a level, `(rows,)`."""
    grid = np.unravel_index(np.arange(level.rows), level.shape) if level.shape else ()
    shared = [grid[level.plates.index(name)] for name in parent.plates]
    if not shared:
        return np.zeros(level.rows, int)
    return np.ravel_multi_index(shared, parent.shape)


@functools.lru_cache
def sharing_counts(space: Space) -> tuple[np.ndarray, ...]:
    """For each level, how many of its rows share each ancestor coordinate, `(ancestor_dim,)`.

    Counts all rows of a plate, including those not in the minibatch.
    """
    found = levels(space)
    counts = []
    for level in found:
        sizes = {plate.name: plate.size for plate in level.sites[0].plates}
        by_coordinate: list[float] = []
        parent = level.parent
        while parent is not None:
            ancestor = found[parent]
            inner = [size for name, size in sizes.items() if name not in ancestor.plates]
            by_coordinate = [float(np.prod(inner))] * ancestor.width + by_coordinate
            parent = ancestor.parent
        counts.append(np.array(by_coordinate))
    return tuple(counts)


def coordinate_indices(space: Space) -> tuple[np.ndarray, ...]:
    """The indices of each level's coordinates in the raveled space, `(rows, width)` each."""
    starts = np.cumsum([0, *(site.size for site in space.sites)])
    start = dict(zip(space.names, starts, strict=False))
    return tuple(
        np.concatenate(
            [_by_row(level, site, start[site.name] + np.arange(site.size)) for site in level.sites],
            axis=1,
        )
        for level in levels(space)
    )


def split_levels(space: Space, z: Position) -> list[Array]:
    """A position by level, `(rows, width)` each."""
    return [
        jnp.concatenate([_by_row(level, site, z[site.name]) for site in level.sites], axis=1)
        for level in levels(space)
    ]


def join_levels(space: Space, parts: Sequence[Array]) -> Position:
    """The inverse of `split_levels`."""
    z = {}
    for level, part in zip(levels(space), parts, strict=True):
        widths = [site.size // level.rows for site in level.sites]
        columns = jnp.split(part, np.cumsum(widths)[:-1], axis=1)
        for site, column in zip(level.sites, columns, strict=True):
            order = _plate_axes_first(level, site)
            moved = column.reshape([site.z_shape[axis] for axis in order])
            z[site.name] = moved.transpose(np.argsort(order))
    return {name: z[name] for name in space.names}


def take_parents(values: Array, level: Level, parent: Level) -> Array:
    """Values of the parent rows, `(parent.rows, ...)`, for each row of a level, `(rows, ...)`."""
    if parent.rows == 1:  # faster than a gather, whose gradient is a scatter
        return jnp.broadcast_to(values, (level.rows, *values.shape[1:]))
    return values[parent_rows(level, parent)]


def _by_row(level: Level, site: Site, value: Array | np.ndarray) -> Array | np.ndarray:
    """A site's value by row, `(rows, coordinates)`."""
    order = _plate_axes_first(level, site)
    return value.reshape(site.z_shape).transpose(order).reshape(level.rows, -1)


def _plate_axes_first(level: Level, site: Site) -> list[int]:
    """The axes of a site's value, those of the level's plates first."""
    plates = {plate.name: plate for plate in site.plates}
    first = _axes(site, [plates[name] for name in level.plates])
    return [*first, *(axis for axis in range(len(site.z_shape)) if axis not in first)]


def _axes(site: Site, plates: Sequence[Plate]) -> list[int]:
    """Axes of the plates in the site's value: batch axes, equal with and without constraints."""
    batch = len(site.shape) - site.event_dim
    return [batch + plate.dim for plate in plates]
