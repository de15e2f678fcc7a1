"""How a model's plates cut its coordinates into rows: the globals, and levels of rows below them.

Sites inside the same plates make a level, with a row for each index into the plates and a block of
coordinates in each row. Sites in no plate are the one row of the first level. A level hangs below
the level with the most of its plates, so that every row has one row above it: rows are leaves of a
tree, and given the rows above it each is independent of all others.
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
        parent: number of the level above, `None` for none.
        above: coordinates in one row of each level above, from the first to the parent.
    """

    sites: tuple[Site, ...]
    plates: tuple[str, ...]
    shape: tuple[int, ...]
    parent: int | None
    above: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def width(self) -> int:
        """Coordinates in a row."""
        return sum(site.size for site in self.sites) // self.rows

    @property
    def scale(self) -> float:
        """What the log density of its rows counts for, see `Site.scale`."""
        return self.sites[0].scale


@functools.lru_cache
def levels(space: Space) -> tuple[Level, ...]:
    """The levels of a space, every one after its parent."""
    groups: dict[frozenset[str], list[Site]] = {}
    for site in space.sites:
        groups.setdefault(frozenset(plate.name for plate in site.plates), []).append(site)
    keys = sorted(groups, key=len)
    found: list[Level] = []
    for key in keys:
        higher = [i for i, other in enumerate(keys[: len(found)]) if other < key]
        parent = max(higher, key=lambda i: len(keys[i]), default=None)
        above = () if parent is None else (*found[parent].above, found[parent].width)
        first = groups[key][0]
        order = sorted(first.plates, key=lambda plate: plate.dim)
        shape = tuple(first.z_shape[axis] for axis in _axes(first, order))
        names = tuple(plate.name for plate in order)
        found.append(Level(tuple(groups[key]), names, shape, parent, above))
    return tuple(found)


def index(level: Level, parent: Level) -> np.ndarray:
    """The row of the parent above each row of a level, `(rows,)`."""
    grid = np.unravel_index(np.arange(level.rows), level.shape) if level.shape else ()
    shared = [grid[level.plates.index(name)] for name in parent.plates]
    if not shared:
        return np.zeros(level.rows, int)
    return np.ravel_multi_index(shared, parent.shape)


@functools.lru_cache
def sharing(space: Space) -> tuple[np.ndarray, ...]:
    """For each level, how many of its rows share each coordinate above them, `(above,)`.

    All rows of a plate count, those too that are not in the batch.
    """
    found = levels(space)
    counts = []
    for level in found:
        sizes = {plate.name: plate.size for plate in level.sites[0].plates}
        own: list[float] = []
        parent = level.parent
        while parent is not None:
            higher = found[parent]
            inside = [size for name, size in sizes.items() if name not in higher.plates]
            own = [float(np.prod(inside))] * higher.width + own
            parent = higher.parent
        counts.append(np.array(own))
    return tuple(counts)


def positions(space: Space) -> tuple[np.ndarray, ...]:
    """Where the coordinates of each level stand in the raveled space, `(rows, width)` each."""
    starts = np.cumsum([0, *(site.size for site in space.sites)])
    place = dict(zip(space.names, starts, strict=False))
    return tuple(
        np.concatenate(
            [
                _stacked(level, site, place[site.name] + np.arange(site.size))
                for site in level.sites
            ],
            axis=1,
        )
        for level in levels(space)
    )


def cut(space: Space, z: Position) -> list[Array]:
    """A position by level, `(rows, width)` each."""
    return [
        jnp.concatenate([_stacked(level, site, z[site.name]) for site in level.sites], axis=1)
        for level in levels(space)
    ]


def join(space: Space, parts: Sequence[Array]) -> Position:
    """The inverse of `cut`."""
    z = {}
    for level, part in zip(levels(space), parts, strict=True):
        widths = [site.size // level.rows for site in level.sites]
        columns = jnp.split(part, np.cumsum(widths)[:-1], axis=1)
        for site, column in zip(level.sites, columns, strict=True):
            order = _order(level, site)
            moved = column.reshape([site.z_shape[axis] for axis in order])
            z[site.name] = moved.transpose(np.argsort(order))
    return {name: z[name] for name in space.names}


def down(values: Array, level: Level, parent: Level) -> Array:
    """What the rows above hold, `(parent.rows, ...)`, for each row of a level, `(rows, ...)`."""
    if parent.rows == 1:  # a gather, and the scatter that is its gradient, would be slow
        return jnp.broadcast_to(values, (level.rows, *values.shape[1:]))
    return values[index(level, parent)]


def _stacked(level: Level, site: Site, value: Array | np.ndarray) -> Array | np.ndarray:
    """A site's value by row, `(rows, coordinates)`."""
    return value.reshape(site.z_shape).transpose(_order(level, site)).reshape(level.rows, -1)


def _order(level: Level, site: Site) -> list[int]:
    """The axes of a site's value, those of the level's plates first."""
    plates = {plate.name: plate for plate in site.plates}
    first = _axes(site, [plates[name] for name in level.plates])
    return [*first, *(axis for axis in range(len(site.z_shape)) if axis not in first)]


def _axes(site: Site, plates: Sequence[Plate]) -> list[int]:
    """Axes of the plates in the site's value: batch axes are the same constrained or not."""
    batch = len(site.shape) - site.event_dim
    return [batch + plate.dim for plate in plates]
