"""Data that come one batch after the other, and can be had in that order only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from vijax.contracts import PyTree
from vijax.data.records import Column, Columns
from vijax.runtime.errors import ArgumentError, mismatch


def stream(batches: Iterable[Any], rows: int) -> PyTree:
    """The rows of an iterable of batches, such as a `grain` loader, in their own order.

    Shuffle before: a step sees the next rows of the stream, whatever the size of its batches. To
    look back (when candidates are compared, or a fit is resumed) the iteration begins anew and
    skips what it does not need, so that any iteration must give the same rows.

    >>> import numpy as np, vijax
    >>> batches = [(np.ones((2, 3)), np.zeros(2)), (np.zeros((1, 3)), np.ones(1))]
    >>> x, y = vijax.data.stream(batches, rows=3)
    >>> y.take(np.array([1, 2]))
    array([0., 1.])

    Args:
        batches: every batch is an array, or a dict or tuple of arrays with equally many rows.
        rows: their number in all, one epoch.

    Returns:
        In place of each array of a batch, a source of all its rows.

    Raises:
        TypeError: it can be iterated over only once.
        ArgumentError: there are no batches, or arrays are of different lengths.
    """
    if iter(batches) is batches:
        raise TypeError(
            "stream: expected an iterable that can be begun anew, got an iterator "
            f"({type(batches).__name__}). Pass a list, a loader, or a class with its own __iter__."
        )
    first = next(iter(batches), None)
    if first is None:
        raise ArgumentError(mismatch("stream", "at least one batch", "none"))
    leaves, structure = jax.tree.flatten(first)
    reader, arrays = _Stream(batches, rows), _arrays(leaves)
    return jax.tree.unflatten(
        structure,
        [
            _Streamed(reader, number, (rows, *array.shape[1:]), array.dtype)
            for number, array in enumerate(arrays)
        ],
    )


class _Streamed(Column):
    """One array of a stream."""

    sequential = True
    read_cost = 2**12  # its batches may be made of records


class _Stream(Columns):
    """Reads a stream forwards, and anew from its beginning where it has to go back."""

    def __init__(self, batches: Iterable[Any], rows: int) -> None:
        super().__init__()
        self.batches = batches
        self.rows = rows
        self._begin()

    def _fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        """Best in long runs."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [part for run in runs for part in self._run(int(run[0]), int(run[-1]) + 1)]
        return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]

    def _begin(self) -> None:
        self.iterator: Iterator[Any] = iter(self.batches)
        self.current: list[np.ndarray] = []
        self.start = self.stop = 0  # rows that the current batch has

    def _run(self, start: int, stop: int) -> Iterator[list[np.ndarray]]:
        if start < self.start:
            self._begin()
        while start < stop:
            if start < self.stop:
                until = min(stop, self.stop)
                yield [leaf[start - self.start : until - self.start] for leaf in self.current]
                start = until
            else:
                self._advance()

    def _advance(self) -> None:
        batch = next(self.iterator, None)
        if batch is None:
            raise ArgumentError(mismatch("stream", f"rows={self.rows} in all", f"{self.stop}"))
        self.current = _arrays(jax.tree.leaves(batch))
        self.start, self.stop = self.stop, self.stop + len(self.current[0])


def _arrays(leaves: list[Any]) -> list[np.ndarray]:
    arrays = [np.asarray(leaf) for leaf in leaves]
    lengths = {array.shape[:1] for array in arrays}
    if len(lengths) != 1 or () in lengths:
        came = f"shapes {[array.shape for array in arrays]}"
        raise ArgumentError(mismatch("stream", "arrays with equally many rows in a batch", came))
    return arrays
