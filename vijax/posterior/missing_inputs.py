"""Checks new inputs of predictions for NaN, which a discrete outcome would hide."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from jax import Array

from vijax.posterior.result import FitResult
from vijax.runtime.errors import ArgumentError


def check_missing(
    result: FitResult, data: dict[str, Array], read: Callable[[], Collection[str]]
) -> None:
    """Refuses NaN in inputs that predictions depend on, unless the fit had them there, too.

    Args:
        result: of the fit.
        data: the new inputs.
        read: the names of the arrays that the predictions depend on.

    Raises:
        ArgumentError: naming the argument, how many of its values are NaN, and the first.
    """
    found = {name: text for name, text in _missing(data) if not _had_missing(result, name)}
    names = read() if found else ()
    for name, text in found.items():
        if name in names:
            raise ArgumentError(
                f"argument {name!r}: expected numbers, as in the fit, got {text}. Drop these rows, "
                "or impute them."
            )


def may_be_missing(result: FitResult, name: str) -> bool:
    """Whether NaN is allowed in an argument: the fit had some, which the model masks."""
    return name not in result.batch.data or _had_missing(result, name)


def _missing(data: dict[str, Array]) -> Iterator[tuple[str, str]]:
    for name, array in data.items():
        bad = _nans(array)
        if bad is not None:
            first = [int(i) for i in np.argwhere(bad)[0]]
            yield name, f"{bad.sum()} of {bad.size} that are NaN, the first at index {first}"


def _had_missing(result: FitResult, name: str) -> bool:
    return name in result.batch.data and _nans(result.batch.data[name]) is not None


def _nans(array: Any) -> np.ndarray | None:
    """Which values are NaN, `None` if none is."""
    host = np.asarray(array)
    if host.dtype.kind != "f" or not np.isnan(np.sum(host)):  # one pass, no memory
        return None
    bad = np.isnan(host)
    return bad if bad.any() else None
