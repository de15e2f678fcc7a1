"""Checks that indices in the data are within the arrays they select from.

JAX takes the last element for an index beyond the end, or fills in NaN. That includes codes that
start at one, as in R, and groups that were not in the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Target
from vijax.contracts.target import Structure
from vijax.model.tracing.checks import location_in_model
from vijax.runtime.errors import ModelError
from vijax.runtime.gathers import Gather, uses_out_of_range
from vijax.runtime.host_values import HostValues

Arrays = dict[str, Array]

_NUM_POINTS = 2
_MEANT = "If the last element is meant for all beyond it, write jnp.clip(i, 0, n - 1)."


def check_indices(target: Target, batch: Batch) -> None:
    """Refuses data with indices out of range, unless the log density does not depend on them.

    One pass over the indices on the host. Only if some are out of range, the log density is
    evaluated with NaN in place of what they select: a model may mask it.

    Args:
        target: the model.
        batch: its data; some rows of those that are not in memory.

    Raises:
        ModelError: naming the argument, the array, the first such index and its place.
    """

    def log_density(data: Arrays, fetched: Arrays) -> list[Array]:
        here = batch._replace(data=data, fetched=fetched)
        state = target.initialize(jax.random.key(0), here)
        points = np.random.default_rng(0).uniform(-1.0, 1.0, (_NUM_POINTS, target.space.dim))
        space = target.space
        return [target.log_density(space.unravel(point), here, *state) for point in points]

    check_gathers(target.structure, target.structure.gathers, batch, log_density)


def check_gathers(
    structure: Structure,
    gathers: Sequence[Gather],
    batch: Batch,
    results: Callable[[Arrays, Arrays], Any],
    remedy: str = "",
) -> None:
    """Refuses data with indices out of range.

    Args:
        structure: of the model.
        gathers: the accesses to check.
        batch: the data.
        results: of `batch.data` and `batch.fetched`, what is not to depend on such indices.
        remedy: what to do about indices that are too large.

    Raises:
        ModelError: as `check_indices`.
    """
    values = HostValues({**batch.data, **batch.fetched}, frozenset(batch.fetched))
    for gather in gathers:
        bad = gather.bad(values)
        if bad is None:
            continue
        if not uses_out_of_range(results, batch.data, batch.fetched):
            return
        origins = {name: values.origin(gather.indices, name) for name in gather.indices.inputs}
        raise ModelError(_message(structure, gather, values, bad, origins, remedy))


def _message(
    structure: Structure,
    gather: Gather,
    values: HostValues,
    bad: np.ndarray,
    origins: Mapping[str, np.ndarray | None],
    remedy: str,
) -> str:
    indices = values(gather.indices)
    assert indices is not None
    first = int(np.flatnonzero(bad.ravel())[0])
    index = int(indices.ravel()[first])
    index = index - gather.size if index < 0 else index  # as the model was given it
    names = ", ".join(map(repr, origins))
    label = f"argument{'s' * (len(origins) > 1)} {names}" if names else "an index array"
    got = f"{index}{_place(values, origins, first, index)}"
    count = int(bad.sum())
    more = f" (and {count - 1} others)" if count > 1 else ""
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


def _place(
    values: HostValues, origins: Mapping[str, np.ndarray | None], first: int, index: int
) -> str:
    """Where an index is in the data, and the value there if the model changes it."""
    if len(origins) != 1:
        return ""
    ((name, origin),) = origins.items()
    array = np.asarray(values.input(name))
    if origin is None or origin.ravel()[first] < 0:
        return ""
    place = np.unravel_index(int(origin.ravel()[first]), array.shape)
    value, where = array[place], f"[{', '.join(map(str, map(int, place)))}]"
    at = f" at index {where}" if place else ""
    return at if value == index else f" from {value}{at}"
