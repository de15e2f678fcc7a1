"""The range of an argument of rows that is an index, such as a group, found before any request."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.rows.analysis import FEW, RowModel, abstract_values, first_rows, predict_once
from vijax.runtime.gathers import Gather, find_gathers, uses_out_of_range
from vijax.runtime.host_values import HostValues

Limits = tuple[int, int]
_SHIFTS = (0, 1)  # of codes that start at zero, or at one


def index_limits(found: RowModel) -> dict[str, Limits]:
    """The smallest and the largest value of the arguments that select from arrays.

    JAX takes the last element for an index beyond the end. Not limited are indices of which the
    model makes no use if they are out of range.

    Args:
        found: the model on single rows.
    """
    data = first_rows(found.call, found.data)
    integers = [n for n in found.used if jnp.issubdtype(data[n].dtype, jnp.integer)]
    if not integers:
        return {}
    closed, _ = abstract_values(found.call, found.state, FEW)
    names = sorted(found.call.arguments(FEW).avals)
    others = [None] * (len(closed.jaxpr.invars) - len(names))
    gathers, _ = find_gathers(closed, [*names, *others], {})
    values = {name: x[0] for name, x in found.state.values.items()}
    run = functools.partial(predict_once, found.call, found.state, FEW)
    limits = {}
    for name in integers:
        low, high = _limits(name, gathers, data)
        if high is None:
            continue
        beyond = data | {name: jnp.full_like(data[name], high + 1)}
        if uses_out_of_range(run, beyond, values):
            limits[name] = low, high
    return limits


def _limits(name: str, gathers: Sequence[Gather], data: dict[str, Array]) -> tuple[int, int | None]:
    """The values of an argument that all accesses allow, `None` without a largest one."""
    lows, highs = [0], []
    for gather in gathers:
        if name not in gather.indices.inputs:
            continue

        def allowed(value: int, gather: Gather = gather) -> bool:
            probe = np.full(data[name].shape, value, data[name].dtype)
            return gather.bad(HostValues({**data, name: probe})) is None

        for shift in _SHIFTS:
            if allowed(gather.size - 1 + shift) and not allowed(gather.size + shift):
                lows.append(shift)
                highs.append(gather.size - 1 + shift)
    return max(lows), min(highs, default=None)
