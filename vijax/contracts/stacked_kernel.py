"""Log density and gradient of one model at points of many data sets, by one compiled program."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts.kernel import Floats, Kernel, _log_density
from vijax.contracts.over_points import over_points
from vijax.contracts.stacked_trajectories import stacked_trajectories
from vijax.contracts.target import Batch, Target
from vijax.runtime.device_layout import default_platform

_WIDTHS = (16, 256)  # points of one set in a row: paths, and draws or chains
_ROWS = 64  # rows per device call, at most
_compiling = threading.Lock()
# data elements times points in a row, at most: four megabytes. Programs of regressions with 200
# rows take 1.5 us a point in rows of 64 and 1.0 in rows of 256; with 5,000, 35 and 43
_ROW_ELEMENTS = 2**20

_Parts = tuple[np.ndarray, ...]


def stacked_kernel(
    target: Target, points: Array, sets: Array, count: Array, stacked: Batch
) -> Array:
    """Log density and gradient at rows of points, each row of one data set.

    On CPUs the rows are evaluated one after another, so that a row and its data stay in the cache
    (regression with 200 rows: 1.0 us a point, 3.9 us as one batch), and those that are not in use
    cost nothing.

    Args:
        target: the target.
        points: `(rows, width, dim)`.
        sets: the data set of each row, `(rows,)`.
        count: number of rows in use.
        stacked: the data of all sets along a leading axis, of length 1 if they share them.

    Returns:
        `(rows, width, 1 + dim)`, arbitrary in rows that are not in use.
    """

    def row(points: Array, one: Array) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[0] if len(leaf) == 1 else leaf[one], stacked)
        function = jax.value_and_grad(_log_density(target, False, batch, {}, {}))
        value, gradient = over_points(target, function, points)
        return jnp.concatenate([value[..., None], gradient], axis=-1)

    if default_platform() != "cpu":
        return jax.vmap(row)(points, sets)
    empty = jnp.zeros((*points.shape[:2], 1 + points.shape[2]), points.dtype)
    return jax.lax.fori_loop(
        0, count, lambda i, found: found.at[i].set(row(points[i], sets[i])), empty
    )


class _Rows(NamedTuple):
    """Where points are in rows of one width: those of a set are in rows of their own."""

    row: np.ndarray  # of each point, `(num,)`
    column: np.ndarray
    first: np.ndarray  # a point of each row, `(rows,)`


class StackedKernel:
    """Log density and gradient at points of many data sets, on the host in float64.

    Args:
        target: the target, of all sets.
        data: the arrays of all sets, along a leading axis, of length 1 where sets share one array.
        centering: centering weights likewise, see `Batch.centering`.
        size: number of sets; by default as many as the arrays have.

    Attributes:
        dim: length of a point.
        dtype: floating-point type on the device.
        points: number of points evaluated, by set.
        num_elements: array elements in one evaluation, see `Kernel`.
        widths: points in a row of the program.
    """

    def __init__(
        self,
        target: Target,
        data: Mapping[str, np.ndarray],
        centering: Mapping[str, np.ndarray],
        size: int | None = None,
    ) -> None:
        self.target, self.dim = target, target.space.dim
        self.data = {name: np.asarray(value) for name, value in data.items()}
        self._on_device = jax.device_put(self.data)
        arrays = self.data | dict(centering)
        self.size = max(map(len, arrays.values()), default=1) if size is None else size
        self.centering: dict[str, np.ndarray] = {}
        self.set_centering(centering)
        self.dtype = np.dtype(jnp.result_type(float))
        self.points = np.zeros(self.size, int)
        self._seen: set[tuple[str, int]] = set()  # programs and widths that are compiled
        elements = sum(value[0].size for value in self.data.values())
        self.num_elements = self.dim + target.marginalized.entries + elements
        most = max(16, _ROW_ELEMENTS // self.num_elements)
        self.widths = (_WIDTHS[0], min(_WIDTHS[1], 1 << (most.bit_length() - 1)))

    def set_centering(self, centering: Mapping[str, np.ndarray]) -> None:
        """Changes the centering weights: `(sets, *z_shape)` by site."""
        self.centering = dict(centering)
        self.stacked = Batch(self._on_device, centering=jax.device_put(self.centering))

    @property
    def eps(self) -> float:
        """Machine epsilon of the device's floating-point type."""
        return float(np.finfo(self.dtype).eps)

    def round(self, points: Floats) -> Floats:
        """The points rounded to the device's precision, in float64."""
        with np.errstate(over="ignore"):
            return np.asarray(points, self.dtype).astype(np.float64)

    def __call__(self, points: Floats, sets: np.ndarray) -> tuple[Floats, Floats]:
        """Log density `(num,)` and gradient `(num, dim)` at `points` `(num, dim)`.

        Args:
            points: `(num, dim)`.
            sets: the data set of each, `(num,)`, in increasing order.
        """
        if not len(points):
            return np.zeros(0), np.zeros((0, self.dim))
        np.add.at(self.points, sets, 1)
        largest = int(np.bincount(sets).max())
        width = next((w for w in self.widths if w >= largest), self.widths[-1])
        rows = _in_rows(sets, width)
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(points, self.dtype)
        # other places repeat a point of the same set: zero may be outside of the support
        table = np.repeat(single[rows.first, None], width, axis=1)
        table[rows.row, rows.column] = single
        found = self._evaluate(stacked_kernel, (table, sets[rows.first].astype(np.int32)))
        found = found[rows.row, rows.column].astype(np.float64)
        log_density = np.where(found[:, 0] < np.inf, found[:, 0], -np.inf)
        return log_density, found[:, 1:]

    def _evaluate(self, function: Callable[..., Array], parts: _Parts) -> np.ndarray:
        """A program at rows of points, of which parts are the arguments; the last are the sets."""
        program = function.__name__, parts[0].shape[1]
        if program in self._seen:
            return self._in_calls(function, parts)
        with _compiling:  # two threads would compile the same program
            found = self._in_calls(function, parts)
        self._seen.add(program)
        return found

    def _in_calls(self, function: Callable[..., Array], parts: _Parts) -> np.ndarray:
        program = self.target.program(function)
        total, results = len(parts[0]), []
        padding = -total % _ROWS
        if padding:
            last = (np.repeat(part[-1:], padding, axis=0) for part in parts)
            parts = tuple(np.concatenate(pair) for pair in zip(parts, last, strict=True))
        for start in range(0, total, _ROWS):
            rows = slice(start, start + _ROWS)
            count = np.int32(min(_ROWS, total - start))
            results.append(program(*(part[rows] for part in parts), count, self.stacked))
        if len(results) == 1:
            return np.asarray(results[0])[:total]
        return np.concatenate([np.asarray(one) for one in results])[:total]

    def at(self, points: Floats, sets: np.ndarray) -> tuple[Floats, Floats]:
        """The same at `points` `(rows, num, dim)`, `num` of the data set of each row.

        Args:
            points: `(rows, num, dim)`.
            sets: of each row, `(rows,)`, in increasing order.

        Returns:
            `(rows, num)` and `(rows, num, dim)`.
        """
        shape = points.shape
        width = next((w for w in self.widths if shape[1] == w), self.widths[-1])
        if shape[1] % width == 0:
            return self._in_full_rows(points, sets, width)
        flat = points.reshape(-1, shape[-1])
        log_density, gradient = self(flat, np.repeat(sets, shape[1]))
        return log_density.reshape(shape[:2]), gradient.reshape(shape)

    def _in_full_rows(self, points: Floats, sets: np.ndarray, width: int) -> tuple[Floats, Floats]:
        """`at` where the points of each row fill rows of the program."""
        np.add.at(self.points, sets, points.shape[1])
        with np.errstate(over="ignore"):
            table = points.astype(self.dtype).reshape(-1, width, self.dim)
        of_rows = np.repeat(sets.astype(np.int32), points.shape[1] // width)
        found = self._evaluate(stacked_kernel, (table, of_rows)).astype(np.float64)
        found = found.reshape(*points.shape[:2], 1 + self.dim)
        log_density = np.where(found[..., 0] < np.inf, found[..., 0], -np.inf)
        return log_density, np.ascontiguousarray(found[..., 1:])

    def trajectories(
        self,
        starts: Floats,
        speed: Floats,
        factor: Floats,
        size: Floats,
        steps: np.ndarray,
        bound: float,
        sets: np.ndarray,
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Ends of leapfrog trajectories `(rows, num)`; see `stacked_trajectories`.

        Args:
            starts: `(rows, num, dim)`.
            speed: likewise, after the first half step.
            factor: of each row, `(rows, dim, dim)`.
            size: `(rows,)`.
            steps: `(rows,)`.
            bound: of gradients.
            sets: of each row, `(rows,)`, in increasing order.

        Returns:
            Log density `(rows, num)`, gradient, points and speeds, `(rows, num, dim)`.
        """
        rows, num, dim = starts.shape
        np.add.at(self.points, sets, num * steps)
        width = next((one for one in self.widths if one >= num), self.widths[-1])
        per_set = -(-num // width)
        padding = ((0, 0), (0, per_set * width - num), (0, 0))
        chains = (np.pad(one.astype(self.dtype), padding, "edge") for one in (starts, speed))
        of_rows = factor, size, steps.astype(np.int32), np.full(rows, bound), sets.astype(np.int32)
        parts = (
            *(one.reshape(-1, width, dim) for one in chains),
            *(np.repeat(self._typed(one), per_set, axis=0) for one in of_rows),
        )
        found = self._evaluate(stacked_trajectories, parts).astype(np.float64)
        found = found.reshape(rows, per_set * width, -1)[:, :num]
        value, slope, points, speed = np.split(found, [1, 1 + dim, 1 + 2 * dim], axis=2)
        log_density = np.where(value[..., 0] < np.inf, value[..., 0], -np.inf)
        return log_density, np.ascontiguousarray(slope), points, speed

    def _typed(self, values: np.ndarray) -> np.ndarray:
        """Floating-point numbers in the device's precision."""
        return values if values.dtype.kind == "i" else values.astype(self.dtype)

    def of_set(self, number: int) -> Kernel:
        """The kernel of one data set, by the same program."""
        return _OneOfMany(self, number)


class _OneOfMany(Kernel):
    """The kernel of one of many data sets, for code that is written for one."""

    def __init__(self, many: StackedKernel, number: int) -> None:
        data = {name: value[min(number, len(value) - 1)] for name, value in many.data.items()}
        centering = {name: value[number] for name, value in many.centering.items()}
        super().__init__(many.target, Batch(data, centering=centering))
        self._many, self._number = many, number

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        self.points += len(points)
        return self._many(points, np.full(len(points), self._number))


def _in_rows(sets: np.ndarray, width: int) -> _Rows:
    starts = np.flatnonzero(np.concatenate([[True], sets[1:] != sets[:-1]]))
    sizes = np.diff(np.append(starts, len(sets)))
    needed = -(-sizes // width)
    offset = np.cumsum(needed) - needed
    group = np.repeat(np.arange(len(starts)), sizes)
    position = np.arange(len(sets)) - starts[group]
    return _Rows(offset[group] + position // width, position % width, np.repeat(starts, needed))
