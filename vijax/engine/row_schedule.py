"""Which rows of a subsampled plate each step sees: epochs of seeded permutations.

An epoch is a permutation of `range(N)` cut into `N // B` batches; the few rows that are left over
wait for the next one, so that no batch has a row twice. RowSchedule are a function of the seed and the
step alone, so that a resumed fit sees what the uninterrupted one would; a step costs O(B), however
many rows there are. RowSchedule of arrays that are not in memory are read here, too.

Many rows are shuffled once and for all, and then permuted anew in every epoch in runs of up to 16
places, counted from a random one. To a batch that makes no difference: its rows are as random as
before. But an array in the order of the first shuffle (see `vijax.engine.row_order`) is read run by run, not
row by row, which takes half the time or less. Shuffling once is known to converge as fast as in
every epoch but for constants: Random reshuffling: simple analysis with vast improvements,
Mishchenko, Khaled, Richtarik, 2020.
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

CHUNK = 512  # steps whose rows are chosen, and sent to the device, at once
_RUN = 16  # most rows that stay together: their parameters fill some lines of a cache
_BYTES = 2**24  # that are read from sources at once; two or three times as much is in memory


@dataclasses.dataclass(frozen=True, eq=False)
class RowSchedule:
    """The row schedule of every subsampled plate.

    Args:
        plates: plates by name; those used in full are left alone.
        seed: fixes the permutations.
        sources: arrays that are not in memory, by name. RowSchedule of a sequential one come in its own
            order instead, and so do those of everything else along its plate.
        cut: the plate that each of them follows, as in `Target.cut`.
        reordered: plates whose rows are called by their places in the first shuffle, since all
            that is in memory has them there. Sources are read by their own numbers all the same.
    """

    plates: Mapping[str, Plate]
    seed: int
    sources: Mapping[str, RowSource] = dataclasses.field(default_factory=dict)
    cut: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    reordered: Collection[str] = ()
    _read: dict[int, Batch] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def subsampled(self) -> dict[str, Plate]:
        """The plates that are not used in full."""
        return {
            name: plate for name, plate in self.plates.items() if plate.size != plate.subsample_size
        }

    @property
    def epoch(self) -> int:
        """Steps until every row has been seen once, or could have been; 1 for full batches."""
        plates = self.subsampled.values()
        return max((plate.size // plate.subsample_size for plate in plates), default=1)

    @functools.cached_property
    def length(self) -> int:
        """Steps in a chunk: fewer than usual, if their rows are large and have to be read."""
        step = sum(
            self.subsampled[self.cut[name][0][0]].subsample_size
            * math.prod(source.shape[1:])
            * source.dtype.itemsize
            for name, source in self.sources.items()
        )
        affordable = max(1, _BYTES // max(1, step))
        return min(CHUNK, 1 << affordable.bit_length() - 1)  # a divisor of CHUNK

    def at(self, step: int) -> dict[str, Any]:
        """RowSchedule of one step, `(batch,)` by plate."""
        return {name: rows[0] for name, rows in self._index(step, 1).items()}

    @property
    def runs(self) -> tuple[str, ...]:
        """The plates whose rows are seen in runs, so that they can be reordered."""
        return tuple(name for name, order in self._orders.items() if order.run > 1)

    def order(self, plate: str) -> np.ndarray:
        """The row at every place of an reordered plate, `(rows,)`."""
        order = self._orders[plate]
        return order.numbers(np.arange(order.size))

    def batch(self, batch: Batch, step: int) -> Batch:
        """The data with the rows of one step."""
        index = self.at(step)
        return batch._replace(index=index, fetched=self._fetched(index))

    def chunk(self, step: int) -> Batch:
        """RowSchedule of the chunk that `step` lies in, and what is read for them, without other data.

        Those of step `t` stand at `t % length` along the first axis. The latest two are kept.
        """
        start = step // self.length * self.length
        index = self._index(start, self.length)
        if not self.sources:
            return Batch({}, index)
        if start not in self._read:
            rows = Batch({}, index, fetched=self._fetched(index))
            for other in self._read.keys() - {start - self.length}:
                del self._read[other]
            self._read[start] = jax.device_put(rows)
        return self._read[start]

    def end(self, step: int) -> int | None:
        """The first step of the next chunk; `None` where every step sees all rows."""
        return (step // self.length + 1) * self.length if self.subsampled else None

    def _index(self, start: int, length: int) -> dict[str, Any]:
        """RowSchedule of some steps that lie in one chunk, `(length, batch)` by plate."""
        found = {}
        for name, order in self._orders.items():
            chunk = order.places if name in self.reordered else order.chunk
            found[name] = chunk(start // CHUNK)[start % CHUNK :][:length]
        return found

    def _fetched(self, index: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The rows of an index in the arrays that are not in memory."""
        plates = {self.cut[name][0][0] for name in self.sources} & index.keys()
        numbers = {
            name: self._orders[name].numbers(index[name]) if name in self.reordered else index[name]
            for name in plates
        }
        return fetch(self.sources, self.cut, numbers)

    @functools.cached_property
    def _orders(self) -> dict[str, _Order]:
        """In which order each plate's rows are seen."""
        sequential = {
            self.cut[name][0][0] for name, source in self.sources.items() if source.sequential
        }
        return {
            name: _Order(
                None if name in sequential else (self.seed, i), plate.size, plate.subsample_size
            )
            for i, (name, plate) in enumerate(self.subsampled.items())
        }


class _Order:
    """The order in which the rows of one plate are seen; the latest parts of it are kept.

    Args:
        seed: of its permutations, `None` for the rows' own order.
        size: number of rows.
        batch: rows of a step.

    Attributes:
        run: how many rows stay together; 1 where they are few, or seen in their own order.
    """

    def __init__(self, seed: tuple[int, int] | None, size: int, batch: int) -> None:
        self.seed = seed
        self.size = size
        self.batch = batch
        self.run = min(_RUN, batch & -batch) if seed and size > SHUFFLE_LIMIT else 1
        # comparisons go back to the first
        self.places = functools.lru_cache(maxsize=4)(self._places if seed else self._in_order)
        self.chunk = functools.lru_cache(maxsize=4)(
            lambda number: self.numbers(self.places(number))
        )

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The rows at some places of the first shuffle, of the same shape."""
        if self.run == 1:
            return places
        assert self.seed is not None
        return permute(self.seed, self.size, places.reshape(-1)).reshape(places.shape)

    def _places(self, number: int) -> np.ndarray:
        """Places of the rows of `CHUNK` steps, `(CHUNK, batch)`."""
        assert self.seed is not None
        per_epoch = self.size // self.batch
        step, parts = number * CHUNK, []
        while step < (number + 1) * CHUNK:
            epoch, done = divmod(step, per_epoch)
            stop = min(per_epoch, done + (number + 1) * CHUNK - step)
            parts.append(self._part(epoch, done * self.batch, stop * self.batch))
            step += stop - done
        return np.concatenate(parts).reshape(CHUNK, self.batch)

    def _part(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The places that come at `start..stop-1` in an epoch."""
        assert self.seed is not None
        seed, run = (*self.seed, epoch), self.run
        runs = permute(seed, self.size // run, np.arange(start // run, stop // run))
        if run == 1:
            return runs
        # from a random place on, round the end: those left out are others in every epoch
        first = np.random.default_rng(np.random.SeedSequence(seed)).integers(self.size)
        begin = runs.astype(np.uint32) * np.uint32(run) + np.uint32(first)
        places = (begin[:, None] + np.arange(run, dtype=np.uint32)).reshape(-1)
        beyond = places - np.uint32(self.size)  # wraps round to a huge number if within
        return np.minimum(places, beyond).astype(np.int32)

    def _in_order(self, number: int) -> np.ndarray:
        first = number * CHUNK * self.batch
        rows = np.arange(first, first + CHUNK * self.batch) % self.size
        return rows.astype(np.int32).reshape(CHUNK, self.batch)
