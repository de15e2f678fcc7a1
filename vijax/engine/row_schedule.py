"""The rows of subsampled plates at each step: epochs of seeded permutations.

An epoch is a permutation of `range(N)` split into `N // B` batches; the remaining rows are skipped,
so that no batch has a row twice. The rows are a function of seed and step alone, so that a resumed
fit has the same batches as an uninterrupted one. A step costs O(B) for any N. The rows of arrays
that are not in memory are also read here.

Large plates are shuffled once; each epoch then permutes runs of up to 16 consecutive positions of
that shuffle, counted from a random offset. The rows of a batch are as random as before, but an
array stored in the order of the first shuffle (see `vijax.engine.row_order`) is read in contiguous
runs, in half the time or less. Shuffling once converges at the same rate as reshuffling in every
epoch, up to constants: Random reshuffling: simple analysis with vast improvements, Mishchenko,
Khaled, Richtarik, 2020.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Plate, RowSource
from vijax.model import fetch
from vijax.runtime.permutation import SHUFFLE_LIMIT, permute

CHUNK = 512  # steps whose row indices are computed and sent to the device at once
_MAX_RUN = 16  # maximum length of a run: its parameters fill several cache lines
_CHUNK_BYTES = 2**24  # bytes read from sources at once; two or three times as much is in memory


@dataclasses.dataclass(frozen=True, eq=False)
class RowSchedule:
    """The row schedule of every subsampled plate.

    Args:
        plates: plates by name; those that are not subsampled are ignored.
        seed: seed of the permutations.
        sources: arrays that are not in memory, by name. The plate of a sequential source is visited
            in the order of the source.
        axes: `(plate, axis)` pairs by array.
        reordered: plates whose row indices are positions in the first shuffle, in which their
            arrays in memory are stored. Sources are read by original row numbers.
    """

    plates: Mapping[str, Plate]
    seed: int
    sources: Mapping[str, RowSource] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    reordered: Collection[str] = ()
    _read: dict[int, Batch] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def subsampled(self) -> dict[str, Plate]:
        """The plates with batches smaller than the plate."""
        return {
            name: plate for name, plate in self.plates.items() if plate.size != plate.subsample_size
        }

    @property
    def epoch(self) -> int:
        """Steps per epoch, the maximum over plates; 1 for full batches."""
        plates = self.subsampled.values()
        return max((plate.size // plate.subsample_size for plate in plates), default=1)

    @functools.cached_property
    def chunk_length(self) -> int:
        """Steps per chunk; fewer than `CHUNK` if large rows have to be read."""
        step_bytes = sum(
            self.subsampled[self.axes[name][0][0]].subsample_size
            * math.prod(source.shape[1:])
            * source.dtype.itemsize
            for name, source in self.sources.items()
        )
        affordable = max(1, _CHUNK_BYTES // max(1, step_bytes))
        return min(CHUNK, 1 << affordable.bit_length() - 1)  # a divisor of CHUNK

    def index(self, step: int) -> dict[str, Any]:
        """The row indices of one step, `(batch,)` by plate."""
        return {name: rows[0] for name, rows in self._indices(step, 1).items()}

    @property
    def plates_with_runs(self) -> tuple[str, ...]:
        """The plates that are visited in runs, so that reordering them pays."""
        return tuple(name for name, order in self._orders.items() if order.run > 1)

    def permutation(self, plate: str) -> np.ndarray:
        """The first shuffle of a plate, `(rows,)`: the row at each position."""
        order = self._orders[plate]
        return order.rows_at(np.arange(order.size))

    def batch(self, batch: Batch, step: int) -> Batch:
        """The data with the rows of one step."""
        index = self.index(step)
        return batch._replace(index=index, fetched=self._fetch(index))

    def chunk(self, step: int) -> Batch:
        """Row indices, and rows read from sources, of the chunk of steps that contains `step`.

        Those of step `t` are at index `t % chunk_length` of the first axis. The last two chunks
        with rows from sources are cached.
        """
        start = step // self.chunk_length * self.chunk_length
        index = self._indices(start, self.chunk_length)
        if not self.sources:
            return Batch({}, index)
        if start not in self._read:
            rows = Batch({}, index, fetched=self._fetch(index))
            for other in self._read.keys() - {start - self.chunk_length}:
                del self._read[other]
            self._read[start] = jax.device_put(rows)
        return self._read[start]

    def chunk_end(self, step: int) -> int | None:
        """The first step of the next chunk; `None` for full batches."""
        if not self.subsampled:
            return None
        return (step // self.chunk_length + 1) * self.chunk_length

    def _indices(self, start: int, length: int) -> dict[str, Any]:
        """The row indices of consecutive steps in one chunk, `(length, batch)` by plate."""
        found = {}
        for name, order in self._orders.items():
            chunk = order.positions if name in self.reordered else order.chunk
            found[name] = chunk(start // CHUNK)[start % CHUNK :][:length]
        return found

    def _fetch(self, index: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The rows in `index`, read from the arrays that are not in memory."""
        plates = {self.axes[name][0][0] for name in self.sources} & index.keys()
        rows = {
            name: self._orders[name].rows_at(index[name]) if name in self.reordered else index[name]
            for name in plates
        }
        return fetch(self.sources, self.axes, rows)

    @functools.cached_property
    def _orders(self) -> dict[str, _RowOrder]:
        """The row order of each subsampled plate."""
        sequential = {
            self.axes[name][0][0] for name, source in self.sources.items() if source.sequential
        }
        return {
            name: _RowOrder(
                None if name in sequential else (self.seed, i), plate.size, plate.subsample_size
            )
            for i, (name, plate) in enumerate(self.subsampled.items())
        }


class _RowOrder:
    """The order in which batches visit the rows of one plate; recent chunks are cached.

    Args:
        seed: seed of the permutations, `None` for sequential order.
        size: number of rows.
        batch: batch size.

    Attributes:
        run: length of a run; 1 for small plates and in sequential order.
    """

    def __init__(self, seed: tuple[int, int] | None, size: int, batch: int) -> None:
        self.seed = seed
        self.size = size
        self.batch = batch
        self.run = min(_MAX_RUN, batch & -batch) if seed and size > SHUFFLE_LIMIT else 1
        # the first chunk is used again by comparisons on common draws
        self.positions = functools.lru_cache(maxsize=4)(
            self._positions if seed else self._sequential
        )
        self.chunk = functools.lru_cache(maxsize=4)(
            lambda number: self.rows_at(self.positions(number))
        )

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions of the first shuffle, of the same shape."""
        if self.run == 1:
            return positions
        assert self.seed is not None
        return permute(self.seed, self.size, positions.reshape(-1)).reshape(positions.shape)

    def _positions(self, number: int) -> np.ndarray:
        """The positions visited by chunk `number`, `(CHUNK, batch)`."""
        assert self.seed is not None
        per_epoch = self.size // self.batch
        step, parts = number * CHUNK, []
        while step < (number + 1) * CHUNK:
            epoch, done = divmod(step, per_epoch)
            stop = min(per_epoch, done + (number + 1) * CHUNK - step)
            parts.append(self._epoch_slice(epoch, done * self.batch, stop * self.batch))
            step += stop - done
        return np.concatenate(parts).reshape(CHUNK, self.batch)

    def _epoch_slice(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Entries `start..stop-1` of an epoch's permutation of positions."""
        assert self.seed is not None
        seed, run = (*self.seed, epoch), self.run
        runs = permute(seed, self.size // run, np.arange(start // run, stop // run))
        if run == 1:
            return runs
        # a random offset, with wraparound: each epoch leaves out different positions
        offset = np.random.default_rng(np.random.SeedSequence(seed)).integers(self.size)
        starts = runs.astype(np.uint32) * np.uint32(run) + np.uint32(offset)
        positions = (starts[:, None] + np.arange(run, dtype=np.uint32)).reshape(-1)
        wrapped = positions - np.uint32(self.size)  # overflows to a huge number if in range
        return np.minimum(positions, wrapped).astype(np.int32)

    def _sequential(self, number: int) -> np.ndarray:
        first = number * CHUNK * self.batch
        rows = np.arange(first, first + CHUNK * self.batch) % self.size
        return rows.astype(np.int32).reshape(CHUNK, self.batch)
