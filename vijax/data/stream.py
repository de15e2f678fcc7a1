"""Sources of rows from streams of batches, readable only in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from vijax.contracts import PyTree
from vijax.data.records import Column, Columns
from vijax.runtime.errors import ArgumentError, mismatch


def stream(batches: Iterable[Any], rows: int) -> PyTree:
    """The rows of an iterable of batches, such as a `grain` loader, in their original order.

    Shuffle beforehand: a step takes the next rows of the stream, independently of the size of its
    batches. To go back (when candidates are compared, or a fit is resumed) the iteration is
    restarted and skips rows, so that every iteration must return the same rows.

    >>> import numpy as np, vijax
    >>> batches = [(np.ones((2, 3)), np.zeros(2)), (np.zeros((1, 3)), np.ones(1))]
    >>> x, y = vijax.data.stream(batches, rows=3)
    >>> y.take(np.array([1, 2]))
    array([0., 1.])

    Args:
        batches: every batch is an array, or a dict or tuple of arrays with equal numbers of rows.
        rows: total number of rows, one epoch.

    Returns:
        The structure of a batch, with each array replaced by a source of all its rows.

    Raises:
        TypeError: it can be iterated over only once.
        ArgumentError: there are no batches, or arrays are of different lengths.
    """
    if iter(batches) is batches:
        raise TypeError(
            "stream: expected an iterable that can be restarted, got an iterator "
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
    read_cost = 2**12  # its batches may consist of records


class _Stream(Columns):
    """Reads a stream forward, and restarts it to go back."""

    def __init__(self, batches: Iterable[Any], rows: int) -> None:
        super().__init__()
        self.batches = batches
        self.rows = rows
        self._restart()

    def _fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        """Reads runs of consecutive rows; efficient if they are long."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [part for run in runs for part in self._run(int(run[0]), int(run[-1]) + 1)]
        return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]

    def _restart(self) -> None:
        self.iterator: Iterator[Any] = iter(self.batches)
        self.current: list[np.ndarray] = []
        self.start = self.stop = 0  # range of rows in the current batch

    def _run(self, start: int, stop: int) -> Iterator[list[np.ndarray]]:
        if start < self.start:
            self._restart()
        while start < stop:
            if start < self.stop:
                end = min(stop, self.stop)
                yield [leaf[start - self.start : end - self.start] for leaf in self.current]
                start = end
            else:
                self._advance()

    def _advance(self) -> None:
        batch = next(self.iterator, None)
        if batch is None:
            raise ArgumentError(mismatch("stream", f"rows={self.rows} in total", f"{self.stop}"))
        self.current = _arrays(jax.tree.leaves(batch))
        self.start, self.stop = self.stop, self.stop + len(self.current[0])


def _arrays(leaves: list[Any]) -> list[np.ndarray]:
    arrays = [np.asarray(leaf) for leaf in leaves]
    lengths = {array.shape[:1] for array in arrays}
    if len(lengths) != 1 or () in lengths:
        got = f"shapes {[array.shape for array in arrays]}"
        raise ArgumentError(mismatch("stream", "arrays with equal numbers of rows in a batch", got))
    return arrays
