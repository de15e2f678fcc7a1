"""Subsampling of the plates and arrays of models that are written for all rows.

A model with plates of full size runs on the rows of a minibatch. Either it indexes its arrays by
the plate (`with plate("rows", n) as i: ... x[i]`), and only the indices of the plate change; or the
arrays are subsampled along the plate before the model is called, so that `x.shape[0]` is the size
of the minibatch, and the sites in the plate are scaled by full rows over rows in use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate, RowSource, Target
from vijax.contracts.rows import take_rows
from vijax.model.tracing.arguments import check_range, device_dtype
from vijax.runtime.errors import ArgumentError, ModelError, mismatch

Axes = tuple[tuple[str, int], ...]  # (plate, axis) pairs along which an array is subsampled


@dataclasses.dataclass(frozen=True)
class BatchRequest:
    """The minibatches that the user requested; hashable.

    Attributes:
        size: rows per minibatch, or `(plate, rows)` pairs.
        axes: `(array, axis or (plate, axis) pairs or None)`, axes that are not inferred.
    """

    size: int | tuple[tuple[str, int], ...]
    axes: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Subsampler:
    """The subsampling of a model's data.

    Attributes:
        full_sizes: number of all rows, by plate.
        axes: the axes of every array that is subsampled; empty where the model indexes its arrays.
    """

    full_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, Axes] = dataclasses.field(default_factory=dict)

    def subsample(self, batch: Batch) -> dict[str, Array]:
        """The arrays with the rows of a minibatch only."""
        taken = batch.data | batch.fetched
        for name in self.axes.keys() - batch.fetched.keys():
            taken[name] = take_rows(taken[name], self.axes[name], batch.index)
        return taken


def batch_request(batch_size: Any, batch_axes: Any) -> BatchRequest | None:
    """The options `batch_size` and `batch_axes` as a `BatchRequest`.

    Raises:
        TypeError, ValueError: naming the option.
    """
    if batch_size is None:
        if batch_axes is not None:
            raise ValueError("batch_axes: expected batch_size as well, got none.")
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
    axes = ((name, _as_axes(name, value)) for name, value in (batch_axes or {}).items())
    return BatchRequest(sizes, tuple(sorted(axes, key=lambda pair: pair[0])))


def subsampled_plates(
    request: BatchRequest,
    plates: Mapping[str, Plate],
    observed: Mapping[str, tuple[Plate, ...]],
    in_loops: bool = False,
) -> dict[str, Plate]:
    """The plates to subsample, with the number of rows of a minibatch.

    Args:
        request: the request.
        plates: all plates of the model.
        observed: the plates around each observed site.
        in_loops: whether all of these are steps of a scan.

    Raises:
        ModelError: there is no such plate, or the plate is ambiguous.
    """
    if not isinstance(request.size, int):
        for name, _ in request.size:
            if name not in plates:
                raise ModelError(mismatch("batch_size", f"plates among {list(plates)}", repr(name)))
        sizes = dict(request.size)
    else:
        around_data = {plate.name for around in observed.values() for plate in around}
        if not around_data and in_loops:
            raise ModelError(
                f"batch_size: expected a plate around the observed sites {list(observed)}, got "
                "the steps of a scan, which depend on one another. Leave batch_size out: a pass "
                "over a long series is fast, and a fit to a part of it is a start, "
                "init=vijax.fit(model, part, guide='conjugate'). Of many series, put numpyro.plate "
                "over them into the body of the scan."
            )
        if not around_data:
            raise ModelError(
                f"batch_size: expected a plate around the observed sites {list(observed)}, got "
                "none, so that the likelihood of a minibatch cannot be scaled. Put them in "
                "numpyro.plate('rows', number_of_rows)."
            )
        long = [name for name in plates if name in around_data and plates[name].size > request.size]
        if len(long) > 1:
            raise ModelError(
                f"batch_size: expected one plate around the data, got {long}. Name the one to "
                f"subsample: batch_size={{{long[0]!r}: {request.size}}}."
            )
        sizes = dict.fromkeys(long, request.size)
    return {
        name: dataclasses.replace(plates[name], subsample_size=min(size, plates[name].size))
        for name, size in sizes.items()
        if size < plates[name].size
    }


def subsampled_axes(
    request: BatchRequest, plates: Mapping[str, Plate], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Axes]:
    """The axes along which each array is subsampled: those as long as a plate.

    Args:
        request: the request.
        plates: the subsampled plates.
        shapes: of all arrays.

    Raises:
        ArgumentError: an array is unknown, an axis does not exist or has another length, or the
            lengths do not determine which axis belongs to which plate.
    """
    given = dict(request.axes)
    for name in given:
        if name not in shapes:
            raise ArgumentError(mismatch("batch_axes", f"arrays among {list(shapes)}", repr(name)))
    found = {}
    for name, shape in shapes.items():
        if name in given:
            pairs = _requested_axes(name, given[name], plates, shape)
        else:
            pairs = _inferred_axes(name, plates, shape)
        if pairs:
            found[name] = pairs
    return found


def fetch(
    sources: Mapping[str, RowSource], axes: Mapping[str, Axes], index: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The rows in `index` of every source, in the precision of the device, for `Batch.fetched`.

    Args:
        sources: by name.
        axes: the axes along which arrays are subsampled, as in `Target.subsampling`.
        index: rows by plate, `(..., batch)`; all of them are read at once.

    Returns:
        By name, `(..., batch, *row)`.

    Raises:
        ArgumentError: a number is out of range in the precision of the device.
    """
    found = {}
    for name, source in sources.items():
        rows = index[axes[name][0][0]]
        taken = source.take(rows.reshape(-1))
        check_range(name, taken)
        taken = taken.astype(device_dtype(taken.dtype), copy=False)
        found[name] = taken.reshape(*rows.shape, *taken.shape[1:])
    return found


def check_sources(target: Target, sources: Mapping[str, RowSource]) -> None:
    """Refuses arrays from a `RowSource` that are not subsampled along their first axis only.

    Raises:
        ArgumentError: naming the array.
    """
    for name, source in sources.items():
        axes = target.subsampling.axes.get(name, ())
        if [axis for _, axis in axes] != [0]:
            got = "axes " + ", ".join(f"{axis} ({plate})" for plate, axis in axes)
            raise ArgumentError(
                mismatch(
                    f"argument {name!r}",
                    f"data that are read from {type(source).__name__} to be subsampled along "
                    "their first axis only",
                    f"shape {source.shape}, subsampled along {got if axes else 'none'}",
                    "Write the model for all rows, without indexing or subsampling, and pass "
                    "batch_size= smaller than the plate; or pass an array in memory.",
                )
            )


def _inferred_axes(name: str, plates: Mapping[str, Plate], shape: tuple[int, ...]) -> Axes:
    pairs = [
        (plate.name, axis)
        for plate in plates.values()
        for axis, length in enumerate(shape)
        if length == plate.size
    ]
    for used in (0, 1):  # a plate with two axes, an axis with two plates
        if len({pair[used] for pair in pairs}) < len(pairs):
            raise ArgumentError(
                f"argument {name!r}: expected one axis as long as a plate, got shape {shape} for "
                f"plates of {[plate.size for plate in plates.values()]} rows. Name the axis along "
                f"the plate: batch_axes={{{name!r}: 0}}, or None for an array without one."
            )
    return tuple(pairs)


def _requested_axes(
    name: str, given: Any, plates: Mapping[str, Plate], shape: tuple[int, ...]
) -> Axes:
    if given is None:
        return ()
    if isinstance(given, int):
        if len(plates) != 1:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"axes by plate, among {list(plates)}", given)
            )
        given = ((next(iter(plates)), given),)
    pairs = []
    for plate, axis in given:
        if plate not in plates:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"plates among {list(plates)}", repr(plate))
            )
        size = plates[plate].size
        if not -len(shape) <= axis < len(shape) or shape[axis] != size:
            raise ArgumentError(
                mismatch(f"batch_axes[{name!r}]", f"an axis of length {size}", f"{axis} of {shape}")
            )
        pairs.append((plate, axis % len(shape)))
    return tuple(pairs)


def _as_axes(name: str, value: Any) -> Any:
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
