"""Data whose differences the precision of the device loses, such as dates and Unix times.

Rounding to float32 changes a number by up to 6e-8 of its size. Where the numbers of a column differ
by little more than that, the fit is to other data, which no diagnostic can see.
"""

from __future__ import annotations

import jax
import numpy as np

from vijax.contracts import RowSource

_RATIO = 1e-3  # sds of a column that rounding may change its numbers by
_ROWS = 2**16  # rows that are compared, evenly spaced
_SOURCE_ROWS = 256  # the same, of an array that is not in memory
_CONSTANT = 1e-13  # of its size, by which a column may vary and still be constant


def rounding_warnings(name: str, value: np.ndarray | RowSource) -> tuple[str, ...]:
    """A warning for an array with columns whose numbers float32 cannot distinguish.

    Args:
        name: of the argument.
        value: its numbers, rows first.

    Returns:
        At most one text, which names the columns and the remedy; none in double precision.
    """
    wide = value.dtype.kind in "iuf" and value.dtype.itemsize > 2 and value.dtype != np.float32
    single = jax.dtypes.canonicalize_dtype(np.float64) == np.float32
    if not (wide and single) or not value.shape or 0 in value.shape:
        return ()
    if isinstance(value, RowSource):
        if value.sequential:
            return ()
        value = value.take(_evenly_spaced(len(value), _SOURCE_ROWS))
    else:
        value = value[_evenly_spaced(len(value), _ROWS)] if len(value) > _ROWS else value
    columns = np.asarray(value, np.float64).reshape(-1, value.shape[-1] if value.ndim > 1 else 1)
    error, sd = _error_and_sd(columns)
    bad = np.flatnonzero(error > _RATIO * sd)
    if not bad.size:
        return ()
    worst = bad[np.argmax(error[bad] / sd[bad])]
    where = f"argument {name!r}"
    if value.ndim > 1:
        others = f" (and {bad.size - 1} other columns)" if bad.size > 1 else ""
        where += f", column {worst}{others}"
    return (
        f"{where}: rounded to float32 its numbers change by up to {error[worst]:.3g}, while their "
        f"standard deviation is {sd[worst]:.3g}. Center it before the call, in double precision, "
        'or switch that on: jax.config.update("jax_enable_x64", True)',
    )


def _evenly_spaced(length: int, count: int) -> np.ndarray:
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)


def _error_and_sd(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest change by rounding, and sd, of each column; infinite sd for a constant column."""
    with np.errstate(all="ignore"):
        error = np.abs(columns - columns.astype(np.float32))
    finite = np.isfinite(columns) & np.isfinite(error)
    columns, error = np.where(finite, columns, np.nan), np.where(finite, error, 0.0)
    first = np.nan_to_num(columns[np.argmax(finite, axis=0), np.arange(columns.shape[1])])
    shifted = np.where(finite, columns - first, 0.0)  # so that the square keeps its digits
    count = np.maximum(finite.sum(axis=0), 1)
    mean = shifted.sum(axis=0) / count
    sd = np.sqrt((np.where(finite, shifted - mean, 0.0) ** 2).sum(axis=0) / count)
    size = np.abs(first) + np.abs(mean)
    return error.max(axis=0), np.where(sd > _CONSTANT * size, sd, np.inf)
