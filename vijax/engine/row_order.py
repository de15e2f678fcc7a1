"""RowSchedule that are seen together, stored together: the data of a fit on batches in another order.

A step that picks single rows of a large array waits for memory at every one of them. Many rows are
seen in runs of the places that a first shuffle gives them (`_batches`); with the arrays in that
order, and parameters by row too, a step reads runs. It is the same fit, bit for bit: nothing but
the name of a row changes, so that plates whose names the model or the guide look at are left as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Algorithm, Batch, PyTree, Variables
from vijax.contracts.rows import take_rows
from vijax.engine.problem import Problem
from vijax.engine.row_parameters import has_rows, take, variable_axes
from vijax.runtime.jaxpr import used_inputs

_COPY = 2**30  # bytes of the arrays in another order, which are there twice while steps go


def worthwhile(
    problem: Problem, algorithm: Algorithm, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[str, ...]:
    """The plates to be reordered: of many rows, in one device's memory, rows not named."""
    target, guide, batch, rows = problem.target, problem.guide, problem.batch, problem.schedule
    plates = {plate for axes in target.subsampling.axes.values() for plate, _ in axes} & set(
        rows.runs
    )
    cut = {
        name
        for name, axes in target.subsampling.axes.items()
        if plates & {plate for plate, _ in axes}
    }
    copied = [array for name, array in batch.data.items() if name in cut]
    if not plates or sum(array.nbytes for array in copied) > _COPY:
        return ()
    if any(len(array.devices()) > 1 for array in batch.data.values()):
        return ()
    index = {
        plate: jax.ShapeDtypeStruct((number,), np.int32)
        for plate, number in target.subsampled.items()
    }
    read = {
        name: jax.ShapeDtypeStruct(
            (target.subsampled[target.subsampling.axes[name][0][0]], *source.shape[1:]),
            jax.dtypes.canonicalize_dtype(source.dtype),
        )
        for name, source in rows.sources.items()
    }

    def step(
        index: dict[str, Array],
        places: dict[str, Array],
        read: dict[str, Array],
        batch: Batch,
        variables: Variables,
        mutable: dict[str, PyTree],
    ) -> Any:
        fetched = reorder(batch.data, target.subsampling.axes, places)
        some = batch._replace(index=index, fetched=fetched | read)
        fixed = (jax.random.key(0), target.on_batch, guide)
        state = algorithm.init(variables, mutable, *fixed, batch)
        axes = variable_axes(guide, variables, target.space, target.subsampled)
        if has_rows(axes):
            state = take(state, algorithm.row_axes(state, axes), places)
        return algorithm.step(state, *fixed, some)

    shapes = jax.tree.map(jax.typeof, (batch, variables, mutable))  # no array becomes a constant
    jaxpr = jax.make_jaxpr(step)(index, index, read, *shapes).jaxpr
    looks = used_inputs(jaxpr, [True] * len(jaxpr.outvars))  # at the numbers of rows
    named = {plate for plate, used in zip(sorted(index), looks, strict=False) if used}
    return tuple(sorted(plates - named))


def reorder(
    data: Mapping[str, Array],
    cut: Mapping[str, tuple[tuple[str, int], ...]],
    order: Mapping[str, Any],
) -> dict[str, Array]:
    """The arrays with their rows in another order.

    Args:
        data: all arrays.
        cut: as in `Target.cut`.
        order: by plate, the row at every place.
    """
    return {name: take_rows(array, cut.get(name, ()), order) for name, array in data.items()}


def inverse(order: np.ndarray) -> np.ndarray:
    """The place of every row, of the row at every place."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order), dtype=order.dtype)
    return places
