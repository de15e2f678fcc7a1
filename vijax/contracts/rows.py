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
    """An array that is not in memory and is read a few rows at a time, see `vijax.data`.

    Attributes:
        shape: `(rows, ...)`.
        dtype: that of the array.
        sequential: whether rows can only be read in order, so that minibatches follow that order.
        read_cost: overhead of reading a row, in array elements whose log density could be
            evaluated in that time; determines how often all rows are read.
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
    """All rows in blocks: `log_density(all rows) = sum_b weight_b * log_density(block_b)`.

    The log density of `B` of `N` rows scales their terms by `N / B` and has all other terms once.
    With weights `B / N`, blocks that cover every row once sum to the log density of all rows, with
    the prior counted once; so do gradients and Hessians.

    All blocks have the same length, so that one program is compiled. The last is padded with copies
    of the last row, and an additional block of that row alone, with negative weight, cancels them.

    Attributes:
        batch: the data that are in memory.
        plate: the plate of the rows: their number, and the number in a block.
        read: `(rows) -> Batch.fetched`, reads the rows with indices `(num,)`.
        num_elements: number of array elements in all rows.
        read_cost: see `RowSource.read_cost`.
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
