"""Data frames and columns of labels among the arguments of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from vijax.runtime.columns import Columns, Labels
from vijax.runtime.encoding import (
    Known,
    column_label,
    encode_labels,
    encode_table,
    is_labels,
    is_table,
)
from vijax.runtime.errors import ArgumentError, mismatch

Path = tuple[Any, ...]


def encode_arguments(
    tree: Any, name_of: Callable[[Path], str], known: Mapping[str, Known]
) -> tuple[Any, dict[str, Labels]]:
    """Arguments with data frames and columns of labels as arrays, and labels by leaf.

    Args:
        tree: `(args, kwargs)`.
        name_of: the name of the argument, or the part of one, at a path.
        known: at new inputs what the fit knows by name.

    Raises:
        ArgumentError: an argument cannot be encoded, or is none of the data frame of the fit; or
            two data frames have different codes for the labels of a column.
    """
    levels: dict[str, Labels] = {}

    def is_frame(path: Path, value: Any) -> bool:
        if is_table(value):
            return True
        return len(path) > 1 and value is not None and known.get(name_of(path), Known()).frame

    def encode(path: Path, leaf: Any) -> Any:
        name = name_of(path)
        if is_frame(path, leaf):
            if not (is_table(leaf) or isinstance(leaf, Mapping)):
                what, got = f"argument {name!r}", type(leaf).__name__
                remedy = "Pass the columns that the model reads, also as a dict."
                raise ArgumentError(mismatch(what, "a data frame, as in the fit", got, remedy))
            columns = encode_table(name, leaf, known)
            levels.update({column_label(name, one): x for one, x in columns.levels.items()})
            return columns
        expected = known.get(name, Known())
        if not is_labels(leaf) and (expected.labels is None or not hasattr(leaf, "shape")):
            return leaf
        encoded = encode_labels(name, leaf, expected)
        if encoded.labels is not None:
            levels[name] = encoded.labels
        return encoded.values

    encoded = jax.tree.map_with_path(encode, tree, is_leaf=is_frame, is_leaf_takes_path=True)
    _check_codes(frames(encoded))
    return encoded, levels


def _check_codes(tables: list[Columns]) -> None:
    """Refuses different codes of a label in columns of one name, such as groups and their members.

    A model that has a row of one data frame for each label would read the wrong rows by the codes
    of the other.
    """
    first: dict[Any, tuple[str, dict[Any, int]]] = {}
    for table in tables:
        for name, labels in table.levels.items():
            what, codes = column_label(table.label, name), {x: i for i, x in enumerate(labels)}
            other, known = first.setdefault(name, (what, codes))
            for label, code in codes.items():
                if known.get(label, code) != code:
                    raise ArgumentError(
                        mismatch(
                            f"arguments {other!r} and {what!r}",
                            "the same codes, as for columns of one name",
                            f"{known[label]} and {code} for the label {label!r}",
                            "Give both columns the same categories in one order, "
                            "column.astype(pandas.CategoricalDtype([...])); or rename one.",
                        )
                    )


def frames(tree: Any) -> list[Columns]:
    """The data frames among encoded arguments."""
    leaves = jax.tree.leaves(tree, is_leaf=is_table)
    return [leaf for leaf in leaves if isinstance(leaf, Columns)]
