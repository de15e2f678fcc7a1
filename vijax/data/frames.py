"""Data frames as a model gets them."""

from __future__ import annotations

from typing import Any

from vijax.runtime.columns import Columns
from vijax.runtime.encoding import encode_table, is_table
from vijax.runtime.errors import ArgumentError, mismatch

__all__ = ["Columns", "columns"]


def columns(frame: Any) -> Columns:
    """The columns of a data frame by name, as `fit` passes them to a model.

    To run a model by hand, or with other tools of NumPyro. Numbers and booleans are arrays;
    categorical columns and strings are integer codes, in the order of the categories, of sorted
    strings, or of the rows if each has a label of its own.

    Args:
        frame: a table of pandas, polars, pyarrow or another library.

    Raises:
        ArgumentError: it is no table, or no column is numbers or labels. One that is neither, or
            lacks labels, raises where it is read.
    """
    if not is_table(frame):
        raise ArgumentError(mismatch("frame", "a data frame", type(frame).__name__))
    return encode_table("data", frame, {})
