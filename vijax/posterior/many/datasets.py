"""The data sets that one model is fitted to, as calls of the model with labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from vijax.model import Call
from vijax.runtime.errors import ArgumentError

_EXPECTED = (
    "a sequence of data sets (each a tuple of the model's positional arguments, a mapping of its "
    "keyword arguments, or one array or data frame), a mapping {label: data set}, pairs of a "
    "string and a data set, or a pandas groupby"
)


def calls_of(datasets: Any, kwargs: Mapping[str, Any]) -> tuple[list[Call], list[Hashable] | None]:
    """The model's arguments for each data set, and the labels, `None` if there are none.

    Args:
        datasets: see `vijax.fit_many`.
        kwargs: keyword arguments that all sets share.

    Raises:
        ArgumentError: it is no collection of data sets, there are none, or a label is there twice.
    """
    labels: list[Hashable] | None = None
    if isinstance(datasets, Mapping):
        labels, sets = list(datasets), list(datasets.values())
    elif isinstance(datasets, (str, bytes)) or not isinstance(datasets, Iterable):
        raise ArgumentError(f"datasets: expected {_EXPECTED}, got {type(datasets).__name__}.")
    elif hasattr(datasets, "to_csv") or hasattr(datasets, "dtype"):
        raise ArgumentError(
            f"datasets: expected {_EXPECTED}, got one {type(datasets).__name__}. Split it: "
            "frame.groupby('store'), or [(x[i], y[i]) for i in range(len(x))]."
        )
    else:
        sets = list(datasets)
        if hasattr(datasets, "get_group") or (sets and all(map(_is_pair, sets))):
            labels, sets = [label for label, _ in sets], [one for _, one in sets]
    if not sets:
        raise ArgumentError(f"datasets: expected {_EXPECTED}, got none.")
    if labels is not None and len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ArgumentError(f"datasets: expected each label once, got {twice!r} twice.")
    return [_call(one, kwargs) for one in sets], labels


def _is_pair(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)


def _call(one: Any, kwargs: Mapping[str, Any]) -> Call:
    if isinstance(one, tuple):
        return one, dict(kwargs)
    if isinstance(one, Mapping):
        return (), {**kwargs, **one}
    return (one,), dict(kwargs)
