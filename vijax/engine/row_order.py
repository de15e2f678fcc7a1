"""Reorders the rows of data and per-row parameters so that the rows of a batch are contiguous.

Gathering single rows of a large array is limited by memory latency. If a plate has many rows, the
row schedule visits them in runs, contiguous in a fixed first shuffle (`row_schedule`). With arrays
and per-row parameters stored in the order of that shuffle, a step reads contiguous runs. The fit is
the same bit for bit, because only the indices of rows change. Plates whose row indices are used by
the model or the guide are therefore not reordered.
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

_MAX_COPY_BYTES = 2**30  # limit for the reordered arrays, a second copy of the data during steps


def plates_to_reorder(
    problem: Problem, algorithm: Algorithm, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[str, ...]:
    """The plates to reorder: many rows, on a single device, row indices not used by the model."""
    target, guide, batch, rows = problem.target, problem.guide, problem.batch, problem.schedule
    plates = {plate for axes in target.subsampling.axes.values() for plate, _ in axes} & set(
        rows.plates_with_runs
    )
    subsampled = {
        name
        for name, axes in target.subsampling.axes.items()
        if plates & {plate for plate, _ in axes}
    }
    copied = [array for name, array in batch.data.items() if name in subsampled]
    if not plates or sum(array.nbytes for array in copied) > _MAX_COPY_BYTES:
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
        positions: dict[str, Array],
        read: dict[str, Array],
        batch: Batch,
        variables: Variables,
        mutable: dict[str, PyTree],
    ) -> Any:
        fetched = reorder(batch.data, target.subsampling.axes, positions)
        step_batch = batch._replace(index=index, fetched=fetched | read)
        fixed = (jax.random.key(0), target.on_batch, guide)
        state = algorithm.init(variables, mutable, *fixed, batch)
        axes = variable_axes(guide, variables, target.space, target.subsampled)
        if has_rows(axes):
            state = take(state, algorithm.row_axes(state, axes), positions)
        return algorithm.step(state, *fixed, step_batch)

    shapes = jax.tree.map(jax.typeof, (batch, variables, mutable))  # avoids array constants
    jaxpr = jax.make_jaxpr(step)(index, index, read, *shapes).jaxpr
    used = used_inputs(jaxpr, [True] * len(jaxpr.outvars))  # the first inputs are row indices
    indexed = {plate for plate, is_used in zip(sorted(index), used, strict=False) if is_used}
    return tuple(sorted(plates - indexed))


def reorder(
    data: Mapping[str, Array],
    axes: Mapping[str, tuple[tuple[str, int], ...]],
    order: Mapping[str, Any],
) -> dict[str, Array]:
    """The arrays with their rows permuted.

    Args:
        data: arrays by name.
        axes: `(plate, axis)` pairs by array.
        order: by plate, a permutation of its rows.
    """
    return {name: take_rows(array, axes.get(name, ()), order) for name, array in data.items()}


def inverse_permutation(order: np.ndarray) -> np.ndarray:
    """The inverse `p` of a permutation: `p[order] == arange(len(order))`."""
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order), dtype=order.dtype)
    return positions
