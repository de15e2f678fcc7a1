"""Arrays whose rows are on disk or not written out: memory maps, sparse matrices, parts."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse

from vijax.contracts import PyTree, RowSource

_WHOLE = 2**22  # numbers up to which all rows are read at once, so that all of them can be judged

_ALIGNMENT = 64  # bytes


class MappedRows(RowSource):
    """Rows of a memory map: the system reads them from disk when they are asked for.

    Args:
        array: `(rows, ...)`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)
        self.shape, self.dtype = array.shape, array.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        out = _aligned((len(rows), *self.shape[1:]), self.dtype)
        # any other mode would collect the rows elsewhere first
        return np.take(self.array, rows, axis=0, out=out, mode="clip")


class SparseRows(RowSource):
    """Rows of a sparse matrix, each written out only when it is asked for.

    Args:
        matrix: in any of SciPy's formats, `(rows, columns)`.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = scipy.sparse.csr_array(matrix)
        self.shape, self.dtype = self.matrix.shape, self.matrix.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix[rows].toarray()


class StackedRows(RowSource):
    """Sources one after the other, as those of several files; each is asked once, for all it has.

    Args:
        parts: of equal dtype and, but for their lengths, equal shapes.
    """

    def __init__(self, parts: Sequence[RowSource]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.shape = (int(self.ends[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.read_cost = max(part.read_cost for part in self.parts)

    def take(self, rows: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(self.ends, rows, side="right")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(owner):
            part, mine = self.parts[number], np.flatnonzero(owner == number)
            out[mine] = part.take(rows[mine] - (self.ends[number] - len(part)))
        return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array without values that begins where JAX on a CPU can use it as it is, uncopied."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def opened(tree: PyTree, by_batch: bool) -> PyTree:
    """Arguments of a model with large memory maps and sparse matrices as sources of rows.

    What is small is read instead: with all rows in memory all of them can be judged. Nothing is
    changed for a fit that is not `by_batch`.
    """
    return jax.tree.map(_opened, tree, is_leaf=_is_jax_sparse) if by_batch else tree


def _is_jax_sparse(leaf: Any) -> bool:
    # without importing what takes a while: who has such a matrix has imported it
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(leaf, sparse.JAXSparse)


def _from_jax(matrix: Any) -> Any:
    """A sparse array of JAX as SciPy's, or as a dense one if it is no matrix."""
    matrix = matrix.to_bcoo() if hasattr(matrix, "to_bcoo") else matrix
    if matrix.ndim != 2 or matrix.n_batch or matrix.n_dense:
        return np.asarray(matrix.todense())
    values, at = np.asarray(matrix.data), np.asarray(matrix.indices)
    inside = np.all(at < matrix.shape, axis=1)  # the rest fills up
    return scipy.sparse.coo_array((values[inside], at[inside].T), matrix.shape)


def _opened(leaf: Any) -> Any:
    if _is_jax_sparse(leaf):
        leaf = _from_jax(leaf)
    if scipy.sparse.issparse(leaf):
        leaf = SparseRows(leaf)
    if isinstance(leaf, RowSource):
        return np.asarray(leaf) if math.prod(leaf.shape) <= _WHOLE else leaf
    if isinstance(leaf, np.memmap) and leaf.ndim and leaf.size > _WHOLE:
        return MappedRows(leaf)
    return leaf
