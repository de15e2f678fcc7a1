"""Checks that fitted values of labelled rows are not used for rows of other labels.

In a model with a latent value for each row, as one per school in a frame of schools, a prediction
takes the value of row i of the fit for row i. With a column of labels this is an error that can be
found: rows in another order, or others, if the model does not read that column.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.posterior.labels import as_labels, short_names
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ArgumentError
from vijax.runtime.jaxpr import used_inputs


def check_labelled_rows(
    result: FitResult,
    data: dict[str, Array],
    fitted: Collection[str],
    program: Any,
    inputs: tuple[Any, ...],
) -> None:
    """Checks the order of labelled rows at new inputs.

    Args:
        result: of the fit.
        data: the new data.
        fitted: latent sites that have their fitted values.
        program: of the prediction, which is only traced.
        inputs: its inputs, with the arrays of `data` among them.

    Raises:
        ArgumentError: the rows of a plate with latents are in another order, or others.
    """
    changed = {
        name: plate
        for name, plate in _labelled_plates(result, fitted).items()
        if name in data and not _in_order(data[name], len(result.arguments.levels[name]))
    }
    if not changed:
        return
    jaxpr = program.trace(*inputs).jaxpr.jaxpr
    used = used_inputs(jaxpr, [True] * len(jaxpr.outvars))
    read = {id(leaf) for leaf, one in zip(jax.tree.leaves(inputs), used, strict=True) if one}
    for name, plate in changed.items():
        if id(data[name]) not in read:
            column = short_names([name])[name]
            raise ArgumentError(
                f"argument {name!r}: expected the rows of the fit in their order, got others. "
                f"Latents of plate {plate!r} have a value for each row, and the model does not "
                "read this column to choose it. Keep the order; or give the plate the size "
                f"data.num_levels({column!r}) and index its sites by data[{column!r}]."
            )


def _labelled_plates(result: FitResult, fitted: Collection[str]) -> dict[str, str]:
    """The plates around fitted latents by the column whose labels their rows have."""
    coords = result.arguments.coords
    plates = {
        plate
        for site in fitted
        for plate in result.target.structure.dims.get(site, ())
        if plate is not None and plate in coords
    }
    return {
        name: plate
        for name, labels in result.arguments.levels.items()
        for plate in plates
        if result.arguments.avals.get(name, ((),))[0] == coords[plate].shape
        and np.array_equal(as_labels(labels), coords[plate])
    }


def _in_order(codes: Array, size: int) -> bool:
    """Whether the rows of the fit come first, in their order; fewer are refused elsewhere."""
    return len(codes) < size or np.array_equal(np.asarray(codes), np.arange(len(codes)))
