"""All rows of data that are not seen as a whole: blocks of rows, whose sum they are."""

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
    effort: int = 0

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers, `(num,)`, in this order: `(num, *shape[1:])`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        return np.asarray(self.take(np.arange(len(self))), dtype)


class Block(NamedTuple):
    """Some rows.

    Attributes:
        batch: the data.
        weight: of what is evaluated on it, in the sum over all blocks.
        rows: how many of its rows, the first ones, are new; the others fill it up.
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
    effort: int = 0

    def __iter__(self) -> Iterator[Block]:
        """The blocks, read when they are asked for, in order and every row once."""
        size, length = self.plate.size, self.plate.subsample_size
        for start in range(0, size, length):
            rows = np.arange(start, min(start + length, size), dtype=np.int32)
            fetched = self.read(rows)
            yield Block(self._filled(rows, fetched), length / size, len(rows))
        if length > len(rows):
            last = {name: values[-1:] for name, values in fetched.items()}
            weight = (len(rows) - length) / size
            yield Block(self._filled(rows[-1:], last), weight, 0)

    def _filled(self, rows: np.ndarray, fetched: dict[str, Any]) -> Batch:
        """A whole block, filled up with copies of the last of these rows."""
        missing = self.plate.subsample_size - len(rows)

        def fill(values: np.ndarray) -> np.ndarray:
            if not missing:
                return values
            return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])

        index = self.batch.index | {self.plate.name: fill(rows)}
        filled = {name: fill(values) for name, values in fetched.items()}
        data = {name: v for name, v in self.batch.data.items() if name not in filled}
        return self.batch._replace(data=data, **jax.device_put({"index": index, "fetched": filled}))


Data = Batch | Blocks


def take_rows(array: Array, pairs: Iterable[tuple[str, int]], index: Mapping[str, Any]) -> Array:
    """An array, cut along `(plate, axis)` pairs, with the rows in `index`; all of other plates."""
    for plate, axis in pairs:
        if plate in index:
            # rows come from permutations: no bounds to check
            array = jnp.take(array, index[plate], axis, mode="clip")
    return array
