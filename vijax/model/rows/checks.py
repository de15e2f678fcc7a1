"""Checks that rows do not affect each other: that a model predicts row by row as on all rows."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import PyTree, Target
from vijax.model.minibatch.additivity import TOLERANCE, relative_difference
from vijax.model.predictive import Draws, predicted_values
from vijax.model.rows.analysis import RowModel, interaction
from vijax.model.rows.predictive import RowCall, RowSite, draw_keys
from vijax.model.tracing.log_densities import elementwise
from vijax.model.tracing.sites import Trace
from vijax.runtime.errors import ArgumentError

_ROWS = 8  # of the example that are compared; more would find the same errors
_DRAWS = 2


def check_rows(target: Target, found: RowModel) -> None:
    """Compares predictions of single rows with those of all rows of the example at once.

    Compared are deterministics, and the log density of the same values of every predicted site.
    A model that standardizes its arrays, correlates its rows or numbers them differs. A random
    model cannot be checked.

    Args:
        target: of the fit.
        found: the model on single rows.

    Raises:
        ArgumentError: all rows of the example are equal, so that nothing can be found.
        ModelError: naming the site that depends on other rows.
    """
    axes = dict(found.call.axes)
    chosen = np.unique(np.linspace(0, found.num_rows - 1, _ROWS).astype(np.int32))
    data = {
        name: jnp.take(x, chosen, axes[name]) if name in axes else x
        for name, x in found.data.items()
    }
    arrays = [np.asarray(data[name]) for name in found.used if name in data]
    if arrays and all(
        _equal_rows(x, axes[name]) for name, x in zip(found.used, arrays, strict=True)
    ):
        raise ArgumentError(
            "predictor: expected an example of two or more different rows, got equal ones. They "
            "show that rows do not affect each other."
        )
    values = {name: x[:_DRAWS] for name, x in found.state.values.items()}
    program = target.program(_row_differences, found.call, len(chosen), quick=True)
    differences, again = (
        jax.device_get(program(np.uint32(seed), data, values, *found.state[1:]))
        for seed in range(2)
    )
    for name, difference in differences.items():
        random = again[name] != difference  # the model itself, as with dropout
        if not (difference <= TOLERANCE or random):
            raise interaction(found.call, f"site {name!r} of a row depends on other rows")


def _equal_rows(values: np.ndarray, axis: int) -> bool:
    rows = np.moveaxis(values, axis, 0)
    return bool(np.all((rows == rows[:1]) | ((rows != rows) & (rows[:1] != rows[:1]))))


def _row_differences(
    target: Target,
    call: RowCall,
    num_rows: int,
    seed: Array,
    data: dict[str, Array],
    values: Draws,
    model: dict[str, PyTree],
    mutable: dict[str, PyTree],
    linearized: dict[str, Array],
) -> dict[str, Array]:
    """The largest relative difference of each site between single rows and all rows."""
    axes, sites = dict(call.axes), {site.name: site for site in call.sites}
    names: set[str] = set()  # of sites that are drawn

    def outputs(trace: Trace, values: Draws) -> Draws:
        """Deterministics, and log densities of values that were drawn."""
        found = {}
        for name, x in predicted_values(trace, values).items():
            found[name] = elementwise(trace[name]) if trace[name]["type"] == "sample" else x
        return found

    def of_row(number: Array, row: dict[str, Array]) -> tuple[Draws, Draws]:
        single = data | {name: jnp.expand_dims(x, axes[name]) for name, x in row.items()}

        def draw(index: Array, values: Draws) -> tuple[Draws, Draws]:
            keys = draw_keys(jax.random.key(0), index, number)
            trace = call.trace(keys, values, single, model, mutable, linearized=linearized)
            drawn = predicted_values(trace, values)
            names.update(name for name in drawn if trace[name]["type"] == "sample")
            return drawn, outputs(trace, values)

        return jax.vmap(draw)(jnp.arange(_DRAWS, dtype=jnp.uint32), values)

    def together(name: str, single: Array, shape: tuple[int, ...]) -> Array:
        """The results of single rows, `(rows, draws, ...)`, as one of all rows."""
        if name not in sites:
            return single[0]
        axis = sites[name].axis
        if axis >= len(shape):  # one log density of all rows
            return jnp.sum(single, 0)
        single = jnp.reshape(single, (num_rows, _DRAWS, *shape[:axis], *shape[axis + 1 :]))
        return jnp.moveaxis(single, 0, 1 + axis)

    def whole(index: Array, values: Draws, drawn: Draws) -> Draws:
        keys = draw_keys(jax.random.key(seed), index, jnp.uint32(0))  # no site is drawn
        trace = call.trace(keys, values, data, model, mutable, num_rows, drawn, linearized)
        return outputs(trace, values)

    along = {name: x for name, x in data.items() if name in axes}
    in_axes = (0, {name: axes[name] for name in along})
    drawn, single = jax.vmap(of_row, in_axes)(jnp.arange(num_rows, dtype=jnp.uint32), along)
    drawn = {
        name: together(name, drawn[name], _shape(sites, name, num_rows, drawn)) for name in names
    }
    # a value that only a single row lacks is found by its density
    drawn = {name: jnp.where(jnp.isfinite(x), x, 0).astype(x.dtype) for name, x in drawn.items()}
    found = jax.vmap(whole)(jnp.arange(_DRAWS, dtype=jnp.uint32), values, drawn)
    return {
        name: _difference(x, together(name, single[name], x.shape[1:])) for name, x in found.items()
    }


def _difference(one: Array, other: Array) -> Array:
    """The largest relative difference, infinite where only one is finite."""
    alike = jnp.all(jnp.isfinite(one) == jnp.isfinite(other))  # a single row has no deviation
    return jnp.where(alike, relative_difference(one, other), jnp.inf)


def _shape(sites: Mapping[str, RowSite], name: str, num_rows: int, drawn: Draws) -> tuple[int, ...]:
    """The shape of a site on all rows."""
    if name not in sites:
        return drawn[name].shape[2:]
    site = sites[name]
    return (*site.shape[: site.axis], num_rows, *site.shape[site.axis :])
