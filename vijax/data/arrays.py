"""Sources of rows from memory maps, sparse matrices and concatenated sources."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse

from vijax.contracts import PyTree, RowSource

_MAX_IN_MEMORY = 2**22  # elements up to which arrays are read into memory, for full diagnostics

_ALIGNMENT = 64  # bytes


class MappedRows(RowSource):
    """Rows of a memory map, read from disk on demand.

    Args:
        array: `(rows, ...)`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)
        self.shape, self.dtype = array.shape, array.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        out = _aligned((len(rows), *self.shape[1:]), self.dtype)
        # any other mode would buffer the rows
        return np.take(self.array, rows, axis=0, out=out, mode="clip")


class SparseRows(RowSource):
    """Rows of a sparse matrix, made dense on demand.

    Args:
        matrix: `(rows, columns)`, in any of SciPy's formats.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = scipy.sparse.csr_array(matrix)
        self.shape, self.dtype = self.matrix.shape, self.matrix.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix[rows].toarray()


class StackedRows(RowSource):
    """Concatenated sources, such as those of several files; each is read once per call.

    Args:
        parts: the sources, of equal dtype and row shape.
    """

    def __init__(self, parts: Sequence[RowSource]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.shape = (int(self.ends[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.read_cost = max(part.read_cost for part in self.parts)

    def take(self, rows: np.ndarray) -> np.ndarray:
        source = np.searchsorted(self.ends, rows, side="right")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(source):
            part, selected = self.parts[number], np.flatnonzero(source == number)
            out[selected] = part.take(rows[selected] - (self.ends[number] - len(part)))
        return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized array aligned so that JAX on a CPU can use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def as_row_sources(tree: PyTree, by_batch: bool) -> PyTree:
    """Arguments of a model with large memory maps and sparse matrices as sources of rows.

    Small ones are read into memory instead, so that diagnostics can use all rows. Without
    `by_batch` nothing is changed.
    """
    return jax.tree.map(_as_row_source, tree, is_leaf=_is_jax_sparse) if by_batch else tree


def _is_jax_sparse(leaf: Any) -> bool:
    # the import is slow: if there is such a matrix, the module is imported already
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(leaf, sparse.JAXSparse)


def _from_jax(matrix: Any) -> Any:
    """A sparse matrix of JAX in SciPy's format, or a dense array if it is not a matrix."""
    matrix = matrix.to_bcoo() if hasattr(matrix, "to_bcoo") else matrix
    if matrix.ndim != 2 or matrix.n_batch or matrix.n_dense:
        return np.asarray(matrix.todense())
    values, indices = np.asarray(matrix.data), np.asarray(matrix.indices)
    inside = np.all(indices < matrix.shape, axis=1)  # others are padding
    return scipy.sparse.coo_array((values[inside], indices[inside].T), matrix.shape)


def _as_row_source(leaf: Any) -> Any:
    if _is_jax_sparse(leaf):
        leaf = _from_jax(leaf)
    if scipy.sparse.issparse(leaf):
        leaf = SparseRows(leaf)
    if isinstance(leaf, RowSource):
        return np.asarray(leaf) if math.prod(leaf.shape) <= _MAX_IN_MEMORY else leaf
    if isinstance(leaf, np.memmap) and leaf.ndim and leaf.size > _MAX_IN_MEMORY:
        return MappedRows(leaf)
    return leaf
