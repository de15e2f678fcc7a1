"""Data that do not fit into memory: sources of rows, and the log density as a sum over blocks."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vijax.contracts.space import Array, Plate
from vijax.contracts.target import Batch


class RowSource(abc.ABC):
    """An array that is not in memory, read a few rows at a time; `vijax.data` makes them.

    Attributes:
        shape: `(rows, ...)`.
        dtype: that of the array.
        sequential: whether rows can be read in their own order only, so that batches follow it.
        effort: numbers of which a log density could be taken while one row is asked for, beside
            those in it: what decides how often all rows may be read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sequential: ClassVar[bool] = False
    read_cost: int = 0

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with indices `rows`, `(num,)`, in this order: `(num, *shape[1:])`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole array, in memory."""
        return np.asarray(self.take(np.arange(len(self))), dtype)


class Block(NamedTuple):
    """A term of the sum over blocks of rows, `weight * log_density(batch)`.

    Attributes:
        batch: the data.
        weight: its weight in the sum.
        rows: number of its leading rows that are new; the others are padding.
    """

    batch: Batch
    weight: float
    rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """All rows, one block after the other, to be summed over.

    The log density of a batch counts its `B` of `N` rows `N / B` times and everything else once.
    Blocks that have every row, with weights `B / N`, therefore add up to the log density of all
    rows, the prior counted once, and so do their gradients and Hessians.

    All blocks are equally long, so that one program is compiled. The last is filled up with copies
    of the last row; where it is, a block of that row alone follows, whose negative weight takes the
    copies off again.

    Attributes:
        batch: the data that are in memory.
        plate: along which rows are cut: how many there are, and how many a block has.
        read: `(rows) -> Batch.fetched`, the rows `(num,)` of what is seen a block at a time.
        num_elements: numbers that all rows hold.
        effort: numbers of which a log density could be taken while one row is read.
    """

    batch: Batch
    plate: Plate
    read: Callable[[np.ndarray], dict[str, Any]]
    num_elements: int = 0
    read_cost: int = 0

    def __iter__(self) -> Iterator[Block]:
        """The blocks in order, each read on demand, every row once."""
        size, length = self.plate.size, self.plate.subsample_size
        for start in range(0, size, length):
            rows = np.arange(start, min(start + length, size), dtype=np.int32)
            fetched = self.read(rows)
            yield Block(self._padded(rows, fetched), length / size, len(rows))
        if length > len(rows):
            last = {name: values[-1:] for name, values in fetched.items()}
            weight = (len(rows) - length) / size
            yield Block(self._padded(rows[-1:], last), weight, 0)

    def _padded(self, rows: np.ndarray, fetched: dict[str, Any]) -> Batch:
        """A block of full length, padded with copies of the last of these rows."""
        missing = self.plate.subsample_size - len(rows)

        def pad(values: np.ndarray) -> np.ndarray:
            if not missing:
                return values
            return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])

        index = self.batch.index | {self.plate.name: pad(rows)}
        padded = {name: pad(values) for name, values in fetched.items()}
        data = {name: v for name, v in self.batch.data.items() if name not in padded}
        return self.batch._replace(data=data, **jax.device_put({"index": index, "fetched": padded}))


Data = Batch | Blocks


def take_rows(array: Array, pairs: Iterable[tuple[str, int]], index: Mapping[str, Any]) -> Array:
    """An array subsampled to the rows in `index` along its `(plate, axis)` pairs."""
    for plate, axis in pairs:
        if plate in index:
            # rows come from permutations, hence are in bounds
            array = jnp.take(array, index[plate], axis, mode="clip")
    return array
