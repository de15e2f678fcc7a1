"""Checks that indices in the data are within the arrays they select from.

JAX takes the last element for an index beyond the end, or fills in NaN. That includes codes that
start at one, as in R, and groups that were not in the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, RowSource, Target
from vijax.contracts.target import Structure
from vijax.model.minibatch.subsampling import fetch
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.checks import location_in_model
from vijax.runtime.errors import ModelError
from vijax.runtime.gathers import Gather, uses_out_of_range
from vijax.runtime.host_values import HostValues

Arrays = dict[str, Array]

_NUM_POINTS = 2
_MAX_READ = 2**24  # indices not in memory that are read, in a fraction of a second
_MEANT = "If the last element is meant for all beyond it, write jnp.clip(i, 0, n - 1)."


def check_indices(target: Target, arguments: Arguments, batch: Batch) -> None:
    """Refuses data with indices out of range, unless the log density does not depend on them.

    One pass over the indices on the host. Only if some are out of range, the log density is
    evaluated with NaN in place of what they select: a model may mask it.

    Args:
        target: the model.
        arguments: its static arguments, and sources of rows that are not in memory: indices among
            these are read once.
        batch: its data; some rows of those that are not in memory.

    Raises:
        ModelError: naming the argument, the array, the first such index and its place.
    """
    structure = target.structure
    for one in (batch, *_rows_out_of_range(target, arguments.sources, batch)):

        def log_density(data: Arrays, fetched: Arrays, one: Batch = one) -> list[Array]:
            here = one._replace(data=data, fetched=fetched)
            state = target.initialize(jax.random.key(0), here)
            points = np.random.default_rng(0).uniform(-1.0, 1.0, (_NUM_POINTS, target.space.dim))
            space = target.space
            return [target.log_density(space.unravel(point), here, *state) for point in points]

        check_gathers(structure, structure.gathers, arguments, one, log_density)


def _rows_out_of_range(
    target: Target, sources: Mapping[str, RowSource], batch: Batch
) -> Iterator[Batch]:
    """A batch that begins with a row of an index out of range, for each access to such indices."""
    for gather in target.structure.gathers if sources else ():
        (name, *others) = gather.indices.inputs or ("",)
        source = sources.get(name)
        if source is None or others or source.sequential or math.prod(source.shape) > _MAX_READ:
            continue
        values = HostValues({**batch.data, name: source.take(np.arange(len(source)))}, {name})
        bad, origin = gather.bad(values), values.origin(gather.indices, name)
        if bad is None or origin is None:
            continue
        plate = target.subsampling.axes[name][0][0]
        row = int(origin[bad][0]) // math.prod(source.shape[1:])
        rows = (row + np.arange(len(batch.index[plate]))) % len(source)
        index: dict[str, Any] = {plate: rows.astype(np.int32)}
        fetched = fetch(sources, target.subsampling.axes, index)
        yield batch._replace(index={**batch.index, **index}, fetched=fetched)


def check_gathers(
    structure: Structure,
    gathers: Sequence[Gather],
    arguments: Arguments,
    batch: Batch,
    results: Callable[[Arrays, Arrays], Any],
    remedy: str = "",
) -> None:
    """Refuses data with indices out of range.

    Args:
        structure: of the model.
        gathers: the accesses to check.
        arguments: the model's static arguments.
        batch: the data.
        results: of `batch.data` and `batch.fetched`, what is not to depend on such indices.
        remedy: what to do about indices that are too large.

    Raises:
        ModelError: as `check_indices`.
    """
    values = HostValues({**batch.data, **batch.fetched}, {*batch.fetched})
    for gather in gathers:
        bad = gather.bad(values)
        if bad is None:
            continue
        if not uses_out_of_range(results, batch.data, batch.fetched):
            return
        origins = {name: values.origin(gather.indices, name) for name in gather.indices.inputs}
        places = [
            _Place(name, np.asarray(values.input(name)), origin, _rows(batch, name))
            for name, origin in origins.items()
            if origin is not None
        ]
        places = places or _static_places(gather, arguments)
        raise ModelError(_message(structure, gather, values, bad, places, remedy))


class _Place(NamedTuple):
    """Where indices come from.

    Attributes:
        name: of the argument.
        array: its values.
        origin: by index, the flat place in `array`, -1 if it is elsewhere.
        rows: the numbers of the rows of `array`, `None` if it has all.
    """

    name: str
    array: np.ndarray
    origin: np.ndarray
    rows: np.ndarray | None = None

    def describe(self, number: int, index: int) -> str:
        """The place of an index, and the value there if the model computes the index from it."""
        flat = int(self.origin.ravel()[number])
        if flat < 0 or not self.array.ndim:
            return ""
        place = list(map(int, np.unravel_index(flat, self.array.shape)))
        value = self.array[tuple(place)]
        if self.rows is not None:
            place[0] = int(self.rows[place[0]])
        at = f" at index {place}"
        return at if value == index else f" from {value}{at}"


def _rows(batch: Batch, name: str) -> np.ndarray | None:
    if name not in batch.fetched:
        return None
    return np.asarray(next(iter(batch.index.values())))


def _static_places(gather: Gather, arguments: Arguments) -> list[_Place]:
    """The static argument that indices are from, as far as it can be known by its values."""
    constants = gather.indices.constants()
    size = math.prod(gather.indices.shape)
    return [
        _Place(name, value, np.arange(size))
        for name, value in arguments.static().items()
        if isinstance(value, np.ndarray) and value.size == size
        if any(np.array_equal(value, constant) for constant in constants)
    ][:1]


def _message(
    structure: Structure,
    gather: Gather,
    values: HostValues,
    bad: np.ndarray,
    places: Sequence[_Place],
    remedy: str,
) -> str:
    indices = values(gather.indices)
    assert indices is not None
    first = int(np.flatnonzero(bad.ravel())[0])
    index = int(indices.ravel()[first])
    index = index - gather.size if index < 0 else index  # as the model was given it
    names = ", ".join(repr(place.name) for place in places)
    label = f"argument{'s' * (len(places) > 1)} {names}" if names else "an index array"
    got = f"{index}{places[0].describe(first, index) if len(places) == 1 else ''}"
    count = int(bad.sum())
    more = f" ({count} in all)" if count > 1 else ""
    low, high = int(indices.min()), int(indices.max())
    from_one = low == 1 and high == gather.size
    advice = "Codes that start at one? Subtract 1." if from_one else remedy or _MEANT
    expected, site = _expected(structure, gather)
    where = "" if site else location_in_model(gather.source)
    return f"{label}: expected {expected}, got {got}{more}{where}. {advice}"


def _expected(structure: Structure, gather: Gather) -> tuple[str, str]:
    """The indices in range, of what, and the plate along the axis; the site if outcomes are."""
    bounds = f"from 0 to {gather.size - 1}"
    if not gather.array:
        for site, outcome in structure.outcomes.items():
            if outcome.inputs == gather.indices.inputs:
                return f"outcomes {bounds} at site {site!r}", site
        return f"indices {bounds} into an array of shape {gather.shape}", ""
    plates = structure.dims.get(gather.array, ())
    plate = plates[gather.axis] if len(plates) == len(gather.shape) else None
    along = f" along plate {plate!r}" if plate else ""
    if len(gather.shape) > 1 and not plate:
        along = f" along axis {gather.axis}"
    return f"indices {bounds} into {gather.array!r} ({gather.size} elements{along})", ""
