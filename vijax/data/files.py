"""Sources of rows from files: `.npy`, and tables in Parquet, Arrow or Feather."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vijax.contracts import RowSource
from vijax.data.arrays import MappedRows, StackedRows
from vijax.runtime.errors import ArgumentError, mismatch

PathLike = str | os.PathLike[str]
_ROWS = 2**16  # copied at a time


def npy(path: PathLike) -> RowSource:
    """The rows of a `.npy` file, or of all such files in a directory in order of their names.

    Args:
        path: the file, or the directory.

    Raises:
        FileNotFoundError: there is no such file.
        ArgumentError: the files differ in dtype, or in the shape of a row.
    """
    path = Path(path)
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"npy: expected .npy files in {str(path)!r}, got none.")
    parts = [MappedRows(np.load(file, mmap_mode="r")) for file in files]
    for file, part in zip(files, parts, strict=True):
        got, first = (f"{one.dtype} rows of shape {one.shape[1:]}" for one in (part, parts[0]))
        if not part.shape or got != first:
            expected = f"{first} as in {files[0].name!r}" if part.shape else "an axis of rows"
            raise ArgumentError(mismatch(f"npy file {str(file)!r}", expected, got))
    return parts[0] if len(parts) == 1 else StackedRows(parts)


def table(path: PathLike, columns: str | Sequence[str], format: str = "parquet") -> RowSource:
    """Columns of a table in a file, or in all files of a directory.

    Reading any row reads its whole row group. With many large row groups, convert the columns once
    with `save_npy`.

    Args:
        path: the file, or the directory.
        columns: one name, for an array `(rows,)`, or several, for `(rows, columns)`.
        format: `"parquet"`, `"arrow"` or `"feather"`.

    Raises:
        ImportError: pyarrow is not installed.
        ArgumentError: a column does not exist or is not numeric.
    """
    try:
        from pyarrow import dataset
    except ImportError as error:
        raise ImportError("table: expected pyarrow, got none. Run: pip install pyarrow") from error
    found = dataset.dataset(path, format=format)
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in found.schema.names:
            raise ArgumentError(mismatch("columns", f"some of {found.schema.names}", repr(name)))
    fragments = list(found.get_fragments())
    # the schema of a directory is that of its first file; others may have other types
    types = {_dtype(fragment, name) for fragment in fragments or [found] for name in names}
    dtype = np.result_type(*types)
    if dtype.kind not in "biuf":
        raise ArgumentError(mismatch("columns", "numbers", f"{sorted(map(str, types))}"))
    width = () if isinstance(columns, str) else (len(names),)
    parts = [
        _Group(group, tuple(names), (rows, *width), dtype)
        for fragment in fragments
        for group, rows in _groups(fragment)
    ]
    return StackedRows(parts)


def _dtype(source: Any, name: str) -> np.dtype:
    """The dtype of a column in a file.

    Raises:
        ArgumentError: it does not have the column.
    """
    schema = getattr(source, "physical_schema", None) or source.schema
    if name not in schema.names:
        where = f"file {source.path!r}"
        raise ArgumentError(mismatch(where, f"a column {name!r}", f"{schema.names}"))
    return np.dtype(schema.field(name).type.to_pandas_dtype())


def _groups(fragment: Any) -> list[tuple[Any, int]]:
    """The row groups of a file with their lengths; other formats than Parquet are one group."""
    if getattr(fragment, "row_groups", None) is None:
        return [(fragment, fragment.count_rows())]
    return [(group, group.row_groups[0].num_rows) for group in fragment.split_by_row_group()]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group(RowSource):
    """One row group, read again at every call."""

    fragment: Any
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    read_cost = 2**14  # every call reads the whole group

    def take(self, rows: np.ndarray) -> np.ndarray:
        table = self.fragment.to_table(columns=list(self.names)).take(rows)
        values = []
        for name in self.names:
            if table[name].null_count:
                raise ArgumentError(
                    mismatch(
                        f"column {name!r}", "a number in every row", "missing ones", "Fill them."
                    )
                )
            values.append(table[name].to_numpy().astype(self.dtype))
        return np.stack(values, axis=-1).reshape(len(rows), *self.shape[1:])


def save_npy(source: RowSource, path: PathLike) -> RowSource:
    """Writes all rows of a source to one `.npy` file, in chunks, and opens it.

    Such a file allows random access to rows, unlike compressed or streamed data.
    """
    file = np.lib.format.open_memmap(path, "w+", source.dtype, source.shape)
    for start in range(0, len(source), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(source)))
        file[rows[0] : rows[-1] + 1] = source.take(rows)
    file.flush()
    return npy(path)
