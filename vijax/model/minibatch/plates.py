"""Minibatches of models that are written for all rows: which plates are cut, which arrays follow.

A model with full-size plates sees the rows of a batch only. Either it indexes its arrays by the
plate (`with plate("rows", n) as i: ... x[i]`), then the plate's indices are all there is to
change; or the arrays that run along the plate are cut before the model sees them, so that
`x.shape[0]` is the size of the batch, and the plate's sites are scaled by what was left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate, RowSource, Target
from vijax.contracts.rows import take_rows
from vijax.model.tracing.arguments import check_range
from vijax.runtime.errors import ArgumentError, ModelError, mismatch

Axes = tuple[tuple[str, int], ...]  # (plate, axis) pairs along which an array is cut


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for, hashable.

    Attributes:
        size: rows a batch, or `(plate, rows)` pairs.
        axes: `(array, axis or (plate, axis) pairs or None)`, what is not to be guessed.
    """

    size: int | tuple[tuple[str, int], ...]
    axes: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the data of a model are cut into batches.

    Attributes:
        full: rows in all, by plate.
        axes: the axes of every array that is cut; empty where the model indexes by itself.
    """

    full: Mapping[str, int] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, Axes] = dataclasses.field(default_factory=dict)

    def take(self, batch: Batch) -> dict[str, Array]:
        """The arrays with the rows of a batch only."""
        taken = batch.data | batch.fetched
        for name in self.axes.keys() - batch.fetched.keys():
            taken[name] = take_rows(taken[name], self.axes[name], batch.index)
        return taken


def request(batch_size: Any, batch_axes: Any) -> Request | None:
    """The options `batch_size` and `batch_axes` as a `Request`.

    Raises:
        TypeError, ValueError: naming the option.
    """
    if batch_size is None:
        if batch_axes is not None:
            raise ValueError("batch_axes: expected batch_size beside it, got none.")
        return None
    if isinstance(batch_size, Mapping):
        for plate, size in batch_size.items():
            _check_size(f"batch_size[{plate!r}]", size)
        sizes: Any = tuple(sorted((str(plate), int(n)) for plate, n in batch_size.items()))
    else:
        _check_size("batch_size", batch_size)
        sizes = int(batch_size)
    if batch_axes is not None and not isinstance(batch_axes, Mapping):
        raise TypeError(
            "batch_axes: expected {argument: axis, {plate: axis} or None}, got "
            f"{type(batch_axes).__name__}."
        )
    axes = ((name, _given(name, value)) for name, value in (batch_axes or {}).items())
    return Request(sizes, tuple(sorted(axes, key=lambda pair: pair[0])))


def plates(
    asked: Request, known: Mapping[str, Plate], observed: Mapping[str, tuple[Plate, ...]]
) -> dict[str, Plate]:
    """The plates to be cut, with the rows that a batch uses of each.

    Args:
        asked: the request.
        known: all plates of the model.
        observed: the plates round each observed site.

    Raises:
        ModelError: there is no such plate, or more than one that could be meant.
    """
    if not isinstance(asked.size, int):
        for name, _ in asked.size:
            if name not in known:
                raise ModelError(mismatch("batch_size", f"plates among {list(known)}", repr(name)))
        chosen = dict(asked.size)
    else:
        round_data = {plate.name for plates in observed.values() for plate in plates}
        if not round_data:
            raise ModelError(
                f"batch_size: expected a plate round the observed sites {list(observed)}, got "
                "none, so that their likelihood cannot be scaled up from a batch. Put them in "
                "numpyro.plate('rows', number_of_rows)."
            )
        long = [name for name in known if name in round_data and known[name].size > asked.size]
        if len(long) > 1:
            raise ModelError(
                f"batch_size: expected one plate round the data, got {long}. Say which is to be "
                f"cut: batch_size={{{long[0]!r}: {asked.size}}}."
            )
        chosen = dict.fromkeys(long, asked.size)
    return {
        name: dataclasses.replace(known[name], subsample_size=min(size, known[name].size))
        for name, size in chosen.items()
        if size < known[name].size
    }


def axes(
    asked: Request, cut: Mapping[str, Plate], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Axes]:
    """The axes along which each array is cut: those that are as long as a plate.

    Raises:
        ArgumentError: an array is unknown, an axis does not exist or has another length, or which
            axis follows which plate cannot be told from the lengths.
    """
    given = dict(asked.axes)
    for name in given:
        if name not in shapes:
            raise ArgumentError(mismatch("batch_axes", f"arrays among {list(shapes)}", repr(name)))
    found = {}
    for name, shape in shapes.items():
        if name in given:
            pairs = _stated(name, given[name], cut, shape)
        else:
            pairs = _guessed(name, cut, shape)
        if pairs:
            found[name] = pairs
    return found


def fetch(
    sources: Mapping[str, RowSource], cut: Mapping[str, Axes], index: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The rows in `index` of every source, in the device's precision, for `Batch.fetched`.

    Args:
        sources: by name.
        cut: the plate along which each of them is cut, as in `Target.cut`.
        index: rows by plate, `(..., batch)`: all of them are read at once.

    Returns:
        By name, `(..., batch, *row)`.

    Raises:
        ArgumentError: a number is out of the range of the device's precision.
    """
    found = {}
    for name, source in sources.items():
        rows = index[cut[name][0][0]]
        taken = source.take(rows.reshape(-1))
        check_range(name, taken)
        taken = taken.astype(jax.dtypes.canonicalize_dtype(taken.dtype), copy=False)
        found[name] = taken.reshape(*rows.shape, *taken.shape[1:])
    return found


def check_sources(target: Target, sources: Mapping[str, RowSource]) -> None:
    """Refuses arrays to be read row by row that the model does not see in batches of rows.

    Raises:
        ArgumentError: naming the array.
    """
    for name, source in sources.items():
        axes = target.subsampling.axes.get(name, ())
        if [axis for _, axis in axes] != [0]:
            cut = "axes " + ", ".join(f"{axis} ({plate})" for plate, axis in axes)
            raise ArgumentError(
                mismatch(
                    f"argument {name!r}",
                    f"data that are read from {type(source).__name__} to be cut into batches "
                    "along their first axis, and along no other",
                    f"shape {source.shape}, cut along {cut if axes else 'none'}",
                    "Write the model for all rows, without indexing or subsampling, and pass "
                    "batch_size= smaller than the plate; or pass an array in memory.",
                )
            )


def _guessed(name: str, cut: Mapping[str, Plate], shape: tuple[int, ...]) -> Axes:
    pairs = [
        (plate.name, axis)
        for plate in cut.values()
        for axis, length in enumerate(shape)
        if length == plate.size
    ]
    for used in (0, 1):  # a plate with two axes, an axis with two plates
        if len({pair[used] for pair in pairs}) < len(pairs):
            raise ArgumentError(
                f"argument {name!r}: expected one axis as long as a plate, got shape {shape} for "
                f"plates of {[plate.size for plate in cut.values()]} rows. Say which axis follows "
                f"the plate: batch_axes={{{name!r}: 0}}, or None for an array that is not cut."
            )
    return tuple(pairs)


def _stated(name: str, given: Any, cut: Mapping[str, Plate], shape: tuple[int, ...]) -> Axes:
    if given is None:
        return ()
    if isinstance(given, int):
        if len(cut) != 1:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"axes by plate, among {list(cut)}", given)
            )
        given = ((next(iter(cut)), given),)
    pairs = []
    for plate, axis in given:
        if plate not in cut:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"plates among {list(cut)}", repr(plate))
            )
        size = cut[plate].size
        if not -len(shape) <= axis < len(shape) or shape[axis] != size:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"an axis of length {size}", f"{axis} of {shape}")
            )
        pairs.append((plate, axis % len(shape)))
    return tuple(pairs)


def _given(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, (int, np.integer)) and not isinstance(value, bool)):
        return None if value is None else int(value)
    if isinstance(value, Mapping):
        return tuple(sorted((str(plate), int(axis)) for plate, axis in value.items()))
    raise TypeError(
        f"batch_axes[{name!r}]: expected an axis, {{plate: axis}} or None, got "
        f"{type(value).__name__}."
    )


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a positive number of rows, got {value!r}.")
