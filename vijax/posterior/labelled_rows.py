"""Checks that fitted values of labelled rows are not used for rows of other labels.

In a model with a latent value for each row, as one per school in a frame of schools, a prediction
takes the value of row i of the fit for row i. With a column of labels this is an error that can be
found: rows in another order, or others, if the model does not read that column.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.model.data_dependence import density_arrays
from vijax.posterior.labels import as_labels, short_names
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ArgumentError
from vijax.runtime.jaxpr import used_inputs


def check_labelled_rows(
    result: FitResult,
    data: dict[str, Array],
    fitted: Collection[str],
    read: Callable[[], Collection[str]],
) -> None:
    """Checks the order of labelled rows at new inputs.

    Args:
        result: of the fit.
        data: the new data.
        fitted: latent sites that have their fitted values.
        read: the names of the arrays that the model reads, see `read_by_program`.

    Raises:
        ArgumentError: the rows of a plate with latents are in another order, or others.
    """
    changed = {
        name: plate
        for name, plate in _labelled_plates(result, fitted).items()
        if name in data and not _in_order(data[name], len(result.arguments.levels[name]))
    }
    names = read() if changed else ()
    for name, plate in changed.items():
        if name not in names:
            column = short_names([name])[name]
            raise ArgumentError(
                f"argument {name!r}: expected the rows of the fit in their order, got others. "
                f"Latents of plate {plate!r} have a value for each row, and the model does not "
                "read this column to choose it. Keep the order; or give the plate the size "
                f"data.num_levels({column!r}) and index its sites by data[{column!r}]."
            )


def read_by_program(program: Any, inputs: tuple[Any, ...], data: dict[str, Array]) -> set[str]:
    """The names of the arrays among the inputs of a program that its results depend on."""
    jaxpr = program.trace(*inputs).jaxpr.jaxpr  # nothing is compiled
    used = used_inputs(jaxpr, [True] * len(jaxpr.outvars))
    read = {id(leaf) for leaf, one in zip(jax.tree.leaves(inputs), used, strict=True) if one}
    return {name for name, array in data.items() if id(array) in read}


def check_labelled_rows_of_data(fit: FitResult, rows: FitResult) -> None:
    """`check_labelled_rows` for a fit whose data have been replaced, at its fitted latents."""
    names, problems = fit.target.space.names, rows.arguments.problems
    for name in _labelled_plates(fit, names):
        if name in problems:
            raise ArgumentError(problems[name])
    state = rows.target, rows.batch, rows.variables.model, rows.mutable
    check_labelled_rows(fit, rows.batch.data, names, lambda: density_arrays(*state))


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
