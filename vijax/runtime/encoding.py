"""Columns of data frames as arrays: numbers as they are, labels as integer codes."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.runtime.columns import Columns, Labels
from vijax.runtime.errors import ArgumentError, mismatch

_SHOWN = 5  # labels in a message
_NUMBERS = ("integer", "floating", "decimal", "mixed-integer-float", "boolean", "empty")
_MISSING = -1  # code of a missing label


class Known(NamedTuple):
    """What a fit knows of a column, which new inputs are to follow.

    Attributes:
        labels: of a categorical column; `None` for numbers, or if the fit had no such column.
        numeric: whether it was numbers.
        may_grow: whether labels that the fit did not have are added, or refused.
        frame: whether it is no column, but the data frame.
    """

    labels: Labels | None = None
    numeric: bool = False
    may_grow: bool = True
    frame: bool = False


class Encoded(NamedTuple):
    """A column as an array.

    Attributes:
        values: `(rows,)`, numbers or codes; `None` if there is a problem.
        labels: by code; `None` for numbers.
        problem: why it cannot be encoded; empty if it can.
    """

    values: Any = None
    labels: Labels | None = None
    problem: str = ""


def is_table(value: Any) -> bool:
    """Whether a value has columns by name: pandas, polars, pyarrow and others."""
    kind = type(value)  # not the value: the columns of a lazy table are expensive
    if isinstance(value, (Columns, type)) or callable(value) or hasattr(kind, "data_vars"):
        return isinstance(value, Columns)
    return any(hasattr(kind, name) for name in ("columns", "column_names"))


def is_labels(value: Any) -> bool:
    """Whether a value is a single column of labels: strings, or of a categorical type."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or isinstance(value, jax.Array) or not hasattr(value, "__array__"):
        return False
    if hasattr(dtype, "categories"):
        return True
    if isinstance(dtype, np.dtype) and (dtype.kind not in "OUT" or np.ma.is_masked(value)):
        return False
    try:
        array = np.asarray(value)
    except Exception:  # a tensor on another device
        return False
    return array.ndim == 1 and array.dtype.kind in "OUT"


def encode_table(label: str, table: Any, known: Mapping[str, Known]) -> Columns:
    """A data frame as `Columns`; the order of its columns does not count.

    Args:
        label: name of the argument.
        table: a data frame, a mapping of columns, or `Columns` whose labels may be others than the
            fit's.
        known: what the fit knows, by `column_label`.

    Raises:
        ArgumentError: it has no rows of numbers or labels, or two columns of one name.
    """
    arrays, problems = {}, {}
    levels = _levels_of_the_fit(label, known)  # also of an outcome that is to be predicted
    columns = _columns(label, table)
    for name in sorted(columns, key=str):
        what = column_label(label, name)
        encoded = _encode(what, columns[name], known.get(what, Known()))
        if encoded.problem:
            problems[name] = encoded.problem
            continue
        arrays[name] = encoded.values
        if encoded.labels is not None:
            levels[name] = encoded.labels
    if isinstance(table, Columns):
        problems = {**table.problems, **problems}
    if not arrays:
        first = next(iter(problems.values()), "")
        raise ArgumentError(
            first or mismatch(f"argument {label!r}", "a data frame with columns", "none")
        )
    return Columns(arrays, levels, problems, label)


def encode_labels(label: str, column: Any, known: Known) -> Encoded:
    """A single column of labels as codes.

    Raises:
        ArgumentError: labels are missing, or it is neither numbers nor labels.
    """
    encoded = _encode(label, column, known)
    if encoded.problem:
        raise ArgumentError(encoded.problem)
    return encoded


def column_label(label: str, name: Hashable) -> str:
    """The name of a column of an argument, that of its leaf in the tree of arguments."""
    return f"{label}[{name!r}]"


def column_name(label: str) -> str:
    """The name of a column by its label, and any other label as it is."""
    return re.sub(r"^.*\[(['\"])(.*)\1\]$", r"\2", label)


def _levels_of_the_fit(label: str, known: Mapping[str, Known]) -> dict[Hashable, Labels]:
    """The labels of the fit by column of an argument."""
    found = {}
    for what, one in known.items():
        if one.labels is None or not what.startswith(f"{label}["):
            continue
        with contextlib.suppress(ValueError, SyntaxError):  # a column of an argument inside
            name = ast.literal_eval(what.removeprefix(f"{label}[")[:-1])
            if column_label(label, name) == what:
                found[name] = one.labels
    return found


def _columns(label: str, table: Any) -> dict[Hashable, Any]:
    """The columns of a table by name."""
    if isinstance(table, Columns):
        return {
            name: _Coded(array, table.levels[name]) if name in table.levels else array
            for name, array in table.arrays.items()
        }
    if isinstance(table, Mapping):
        values = table.items()
        return {
            name: x if hasattr(x, "dtype") else np.atleast_1d(np.asarray(x)) for name, x in values
        }
    got = type(table).__name__
    if hasattr(table, "column_names") and hasattr(table, "to_pandas"):  # nulls of pyarrow
        table = table.to_pandas()
    if hasattr(table, "collect") or not hasattr(table, "__getitem__"):  # a lazy one of polars
        raise ArgumentError(
            mismatch(f"argument {label!r}", "a table in memory", got, "Collect it first.")
        )
    names = list(table.columns)
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ArgumentError(
            mismatch(f"argument {label!r}", "columns of different names", f"two named {repeated}")
        )
    return {name: table[name] for name in names}


@dataclasses.dataclass(frozen=True)
class _Coded:
    """Codes that have been encoded before, with their labels."""

    codes: Any
    labels: Labels


def _encode(what: str, column: Any, known: Known) -> Encoded:
    found = _read(what, column)
    if found.problem or (found.labels is None and known.labels is None):
        return found
    if found.labels is None and (known.labels is None or not _is_host(found.values)):
        return found._replace(labels=known.labels)  # codes of the fit
    if known.numeric:
        got = f"labels such as {_listed(found.labels or ())}"
        return Encoded(problem=mismatch(_argument(what), "numbers as in the fit", got))
    if found.labels is None:
        assert known.labels is not None
        if not any(isinstance(label, (int, float)) for label in known.labels):
            expected = f"labels as in the fit, such as {_listed(known.labels)}"
            return Encoded(problem=mismatch(_argument(what), expected, "numbers"))
        found = _numbers_as_labels(found.values)
    assert found.labels is not None
    if _is_host(found.values) and (missing := found.values == _MISSING).any():
        return Encoded(problem=_missing(what, missing))
    if known.labels is None or known.labels == found.labels:
        return found
    return _recoded(what, found, known.labels, known.may_grow)


def _read(what: str, column: Any) -> Encoded:
    """A column by itself: numbers, or codes with labels, -1 where missing."""
    if isinstance(column, _Coded):
        return Encoded(column.codes, column.labels)
    if not _is_host(column):
        return Encoded(column)
    dtype: Any = getattr(column, "dtype", None)
    if hasattr(dtype, "categories") and hasattr(column, "to_physical"):  # polars
        order = tuple(dtype.categories) if type(dtype).__name__ == "Enum" else None
        return _coded(np.asarray(column, object), order)
    if hasattr(dtype, "categories"):
        column = getattr(column, "cat", column)
        return Encoded(np.asarray(column.codes).astype(np.int32), _plain(column.categories))
    values = np.asarray(column)
    if values.dtype.kind in "biufc" or values.dtype.name == "bfloat16":
        return Encoded(values)
    if values.dtype.kind in "Mm":
        return Encoded(problem=_dates(what, values))
    if values.dtype.kind in "UT":
        return _coded(values.astype(object))
    return _read_objects(what, values)


def _read_objects(what: str, values: np.ndarray) -> Encoded:
    """A column of Python objects."""
    import pandas  # comes with ArviZ; slow to import

    kind = pandas.api.types.infer_dtype(values, skipna=True)
    if kind == "string":
        return _coded(values)
    if kind in _NUMBERS:
        missing = pandas.isna(values)
        if not missing.any() and kind != "decimal":
            return Encoded(np.array(values.tolist()))
        numbers = np.full(values.shape, np.nan)
        numbers[~missing] = values[~missing].astype(float)
        return Encoded(numbers)
    if "date" in kind or kind in ("time", "timedelta"):
        return Encoded(problem=_dates(what, values))
    types = sorted({type(value).__name__ for value in values})
    text = next((i for i, value in enumerate(values) if isinstance(value, str)), None)
    got = f"values of the types {', '.join(types)}"
    got += f"; the first text is {values[text]!r} in row {text}" if text is not None else ""
    remedy = "Convert it, for example by pandas.to_numeric(column, errors='coerce')."
    return Encoded(problem=mismatch(_argument(what), "numbers or labels", got, remedy))


def _coded(values: np.ndarray, order: Labels | None = None) -> Encoded:
    """Codes of strings, `None` or NaN where missing.

    Without an order labels are sorted; if every row has its own they are in the order of the rows,
    so that rows and labels have the same numbers.
    """
    import pandas

    if order is not None:
        return Encoded(pandas.Index(order).get_indexer(values).astype(np.int32), order)
    codes, labels = pandas.factorize(values)
    if len(labels) < len(values):
        codes, labels = pandas.factorize(values, sort=True)
    return Encoded(codes.astype(np.int32), _plain(labels))


def _numbers_as_labels(values: np.ndarray) -> Encoded:
    labels, codes = np.unique(values, return_inverse=True)
    return Encoded(codes.astype(np.int32), _plain(labels))


def _recoded(what: str, found: Encoded, fitted: Labels, may_grow: bool) -> Encoded:
    """Codes with the labels of the fit first, then those that it did not have."""
    assert found.labels is not None
    codes = np.asarray(found.values)
    used = np.unique(codes)
    number = {label: i for i, label in enumerate(fitted)}
    new = tuple(found.labels[i] for i in used if found.labels[i] not in number)
    if new and not may_grow:
        return Encoded(
            problem=mismatch(
                _argument(what),
                f"labels of the fit, {_listed(fitted)}",
                f"{_listed(new)}",
                "predict(...) draws what was not fitted for new labels from the model.",
            )
        )
    number |= {label: len(fitted) + i for i, label in enumerate(new)}
    table = np.zeros(len(found.labels), np.int32)
    table[used] = [number[found.labels[i]] for i in used]
    return Encoded(table[codes], (*fitted, *new))


def _plain(labels: Any) -> Labels:
    """Labels as Python numbers and strings."""
    plain = (one.item() if isinstance(one, np.generic) else one for one in labels)
    return tuple(one if isinstance(one, (bool, int, float, str)) else str(one) for one in plain)


def _is_host(value: Any) -> bool:
    """Whether a column is given by the caller, not an array of an earlier encoding."""
    return not isinstance(value, (jax.Array, jax.ShapeDtypeStruct))


def _argument(what: str) -> str:
    return f"argument {what!r}"


def _listed(labels: Labels) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more


def _dates(what: str, values: np.ndarray) -> str:
    return mismatch(
        _argument(what),
        "numbers or labels",
        f"dates or times ({values.dtype})",
        "Convert them, such as to days: (date - date.min()).dt.days, or to labels: "
        "date.dt.month_name().",
    )


def _missing(what: str, missing: np.ndarray) -> str:
    first = int(missing.argmax())
    return mismatch(
        _argument(what),
        "a label in every row",
        f"{missing.sum()} of {missing.size} that are missing, the first in row {first}",
        "Drop these rows (frame.dropna(subset=...)), or give them a label of their own "
        "(column.fillna('unknown')).",
    )
