"""Sources of rows from datasets of indexed records."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from vijax.contracts import PyTree, RowSource
from vijax.runtime.errors import ArgumentError, mismatch


class Dataset(Protocol):
    """A sequence of records: a list, a `grain` `MapDataset`, a PyTorch map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def records(dataset: Dataset) -> PyTree:
    """The records of a dataset, `dataset[0]` to `dataset[len(dataset) - 1]`, as rows of arrays.

    >>> import numpy as np, vijax
    >>> x, y = vijax.data.records([(np.ones(3), 0), (np.zeros(3), 1)])
    >>> x.take(np.array([1, 0]))
    array([[0., 0., 0.],
           [1., 1., 1.]])

    Args:
        dataset: every record is a number, an array, or a dict or tuple of them, of equal shapes.

    Returns:
        The structure of a record, with each number or array replaced by a source of rows.

    Raises:
        ArgumentError: there are no records, or they are not numeric.
    """
    if not len(dataset):
        raise ArgumentError(mismatch("records", "at least one", "none"))
    leaves, structure = jax.tree.flatten(dataset[0])
    reader = _Records(dataset)
    arrays = [np.asarray(leaf) for leaf in leaves]
    if not all(array.dtype.kind in "biuf" for array in arrays):
        raise ArgumentError(mismatch("records", "numbers", f"{[a.dtype.name for a in arrays]}"))
    return jax.tree.unflatten(
        structure,
        [
            Column(reader, number, (len(dataset), *array.shape), array.dtype)
            for number, array in enumerate(arrays)
        ],
    )


class Columns(abc.ABC):
    """Reads several arrays together, and caches the last rows, which every array requests."""

    def __init__(self) -> None:
        self._rows = np.zeros(0, int)
        self._values: list[np.ndarray] = []

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows with indices `(num,)` of each array."""
        if not (self._values and np.array_equal(rows, self._rows)):
            self._rows, self._values = rows, self._fetch(rows)
        return self._values

    @abc.abstractmethod
    def _fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        """`read` without the cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class Column(RowSource):
    """One of several arrays that are read together.

    Args:
        reader: reads all of them.
        number: index of this array.
        shape: `(rows, ...)`.
        dtype: that of the array.
    """

    reader: Columns
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype
    read_cost = 2**14  # a few microseconds

    def take(self, rows: np.ndarray) -> np.ndarray:
        values = self.reader.read(rows)[self.number]
        if values.shape != (len(rows), *self.shape[1:]):
            expected = f"rows of shape {self.shape[1:]}, as the first"
            raise ArgumentError(mismatch("data", expected, f"{values.shape[1:]}"))
        if not np.can_cast(values.dtype, self.dtype, "same_kind"):
            expected = f"numbers of {self.dtype}, as the first row"
            remedy = "Give all of them one type."
            raise ArgumentError(mismatch("data", expected, f"{values.dtype}", remedy))
        return values.astype(self.dtype, copy=False)


class _Records(Columns):
    """Reads a dataset record by record."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.dataset = dataset

    def _fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        leaves = [jax.tree.leaves(self.dataset[int(row)]) for row in rows]
        return [np.stack(one) for one in zip(*leaves, strict=True)]
