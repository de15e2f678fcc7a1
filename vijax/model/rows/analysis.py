"""What a row is: the axis of rows of every argument and of every site, from abstract traces."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Plate, PyTree, Target
from vijax.model.minibatch.subsampling import BatchRequest, subsampled_axes
from vijax.model.predictive import (
    Draws,
    abstract_call,
    as_call,
    model_call,
    predicted_values,
    resampled_sites,
)
from vijax.model.rows.predictive import LocalLatentError, RowCall, RowSite, draw_keys
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.sites import Trace, site_plates
from vijax.runtime.errors import ArgumentError, ModelError
from vijax.runtime.jaxpr import used_inputs

FEW, _MORE = 2, 3  # rows of traces whose comparison shows which axes are those of rows


class SharedState(NamedTuple):
    """What all rows share: posterior draws, parameters and state of the model.

    Attributes:
        values: constrained draws of the latents that all rows share, `(num_draws, *shape)`.
        model: its `param` sites.
        mutable: its mutable state.
        linearized: where networks are linearized, see `Batch`.
    """

    values: Draws
    model: dict[str, PyTree]
    mutable: dict[str, PyTree]
    linearized: dict[str, Array]


class RowModel(NamedTuple):
    """A model that predicts row by row, and the example by which this was found.

    Attributes:
        call: the model on single rows.
        data: the arrays of the example.
        num_rows: its number of rows.
        used: the arrays along rows that predictions depend on; not data of observed sites.
        state: the state of the model, with the latents that all rows share.
    """

    call: RowCall
    data: dict[str, Array]
    num_rows: int
    used: tuple[str, ...]
    state: SharedState


def row_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Target,
    fitted: Arguments,
    batch_axes: Mapping[str, int | None],
    state: SharedState,
) -> RowModel:
    """Finds the rows of a model at example arguments.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        target: of the fit.
        fitted: the arguments of the fit.
        batch_axes: by array, an axis of rows that is not to be inferred, or `None`.
        state: the state of the model.

    Raises:
        ArgumentError: the axis of rows of an argument is ambiguous, or there are too few rows.
        ModelError: a prediction depends on several rows, or on latents of the fitted rows.
    """
    whole, data, _ = model_call(model, args, kwargs, fitted, may_grow=False)
    _, trace = abstract_call(whole)
    resampled = resampled_sites(trace, target.structure.observed)
    num_rows, axes = _argument_axes(whole.arguments, trace, resampled, state.values, batch_axes)
    discrete = frozenset({*target.marginalized.sizes} & {*state.values})
    call = RowCall(whole, axes, resampled, discrete)
    sites, used = _row_sites(call, state)
    # the same program, however many rows the example has
    few, _ = as_call(whole.model, call.arguments(FEW), first_rows(call, data))
    call = dataclasses.replace(call, call=few, sites=sites)
    of_rows = {site.name for site in sites}  # marginalized sites, drawn for each row
    values = {name: x for name, x in state.values.items() if name not in of_rows}
    return RowModel(call, data, num_rows, used, state._replace(values=values))


def interaction(call: RowCall, what: str) -> ModelError:
    """The error for a model whose rows affect each other."""
    arrays = [name for name, _ in call.axes]
    return ModelError(
        f"predictor: expected rows that do not affect each other, but {what}. The arrays with an "
        f"axis of rows are {arrays}; exclude others, batch_axes={{{arrays[0]!r}: None}}. Set sizes "
        "of plates by these arrays (len(x)); compute statistics of all rows (means, scales) before "
        "the fit and pass them as arguments. Rows that are related, such as times or places, need "
        "posterior.predict(*rows), which is compiled for each number of rows."
    )


def first_rows(call: RowCall, data: Mapping[str, Array]) -> dict[str, Array]:
    """The data with the first rows only."""
    axes = dict(call.axes)
    return {
        name: jnp.take(x, jnp.arange(FEW), axes[name]) if name in axes else x
        for name, x in data.items()
    }


def _argument_axes(
    arguments: Arguments,
    trace: Trace,
    resampled: frozenset[str],
    values: Draws,
    batch_axes: Mapping[str, int | None],
) -> tuple[int, tuple[tuple[str, int], ...]]:
    """The number of rows, and the axis of rows of every array that has one."""
    shapes = {name: shape for name, (shape, _) in arguments.avals.items()}
    sites = [
        name
        for name, site in trace.items()
        if site["type"] == "sample"
        and (name in resampled or not (site["is_observed"] or name in values))
    ]
    num_rows = _number_of_rows(shapes, trace, sites, batch_axes)
    if num_rows < 2:
        raise ArgumentError(
            f"predictor: expected an example of two or more different rows, got {num_rows}. They "
            "show which axes are those of rows, and that rows do not affect each other."
        )
    plates = {"rows": Plate("rows", -1, num_rows, num_rows)}
    found = subsampled_axes(BatchRequest(num_rows, tuple(batch_axes.items())), plates, shapes)
    return num_rows, tuple((name, pairs[0][1]) for name, pairs in found.items())


def _number_of_rows(
    shapes: Mapping[str, tuple[int, ...]],
    trace: Trace,
    sites: list[str],
    batch_axes: Mapping[str, int | None],
) -> int:
    """The number of rows of the example: the size of the plate around what is predicted."""
    for name, axis in batch_axes.items():
        shape = shapes.get(name, ())
        if axis is not None and -len(shape) <= axis < len(shape):
            return shape[axis]
    lengths = {length for shape in shapes.values() for length in shape}
    firsts = {shape[0] for shape in shapes.values() if shape}
    plates = {plate.name: plate.size for name in sites for plate in site_plates(trace[name], trace)}
    along = {name: size for name, size in plates.items() if size in lengths}
    if len(along) > 1:  # columns are no first axis of an argument
        along = {name: size for name, size in along.items() if size in firsts}
    found = set(along.values())
    if not plates:  # the first axis of what is predicted
        found = {length for name in sites for length in jnp.shape(trace[name]["value"])[:1]}
        found &= firsts
    if len(found) == 1 and len(along) < 2:
        return found.pop()
    raise ArgumentError(
        f"predictor: expected one plate of rows around the sites {sites} with arguments along it, "
        f"got plates {plates}. Name the axis of rows of an argument: "
        f"batch_axes={{{next(iter(shapes), 'x')!r}: 0}}."
    )


def _row_sites(call: RowCall, state: SharedState) -> tuple[tuple[RowSite, ...], tuple[str, ...]]:
    """The sites with an axis of rows, and the arrays along rows that they depend on."""
    try:
        (closed, few), (_, more) = (abstract_values(call, state, num) for num in (FEW, _MORE))
    except LocalLatentError:
        raise
    except ModelError as error:
        raise interaction(call, f"the model does not run on {FEW} of them ({error})") from error
    sites = []
    for name in few:
        axis = _changed_axis(few[name].shape, more[name].shape)
        if axis == -1:
            raise interaction(call, f"site {name!r} does not have one entry for each row")
        if axis is not None:
            shape = few[name].shape
            sites.append(RowSite(name, axis, shape[:axis] + shape[axis + 1 :]))
    arrays, along = sorted(call.call.arguments.avals), [name for name, _ in call.axes]

    def used(outputs: set[str]) -> tuple[str, ...]:
        """The arrays along rows that some sites depend on."""
        flags = used_inputs(closed.jaxpr, [name in outputs for name in sorted(few)])
        found = {name for name, flag in zip(arrays, flags, strict=False) if flag}
        return tuple(name for name in along if name in found)

    names = {site.name for site in sites}
    for name in few.keys() - names:
        if rows := used({name}):
            raise interaction(call, f"site {name!r} is one value of all rows of {[*rows]}")
    return tuple(sites), used(names) or tuple(along)


def abstract_values(
    call: RowCall, state: SharedState, num_rows: int
) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """The program of all predicted values on so many rows, whose first inputs are the arrays."""
    one_draw = {n: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for n, x in state.values.items()}
    run = functools.partial(predict_once, call, state, num_rows)
    data = call.arguments(num_rows).abstract()
    return jax.make_jaxpr(run, return_shape=True)(data, one_draw)


def predict_once(
    call: RowCall, state: SharedState, num_rows: int, data: dict[str, Array], values: Draws
) -> Draws:
    """Predicted values on some rows at one posterior draw, before their axes are known."""
    keys = draw_keys(jax.random.key(0), jnp.uint32(0), jnp.uint32(0))
    shared = (state.model, state.mutable, num_rows)
    trace = call.trace(keys, values, data, *shared, linearized=state.linearized)
    # marginalized sites of rows have other shapes than in the fit, and are drawn
    fixed = {n for n, x in values.items() if jnp.shape(trace[n]["value"]) == x.shape}
    return {n: jnp.asarray(x) for n, x in predicted_values(trace, fixed).items()}


def _changed_axis(few: tuple[int, ...], more: tuple[int, ...]) -> int | None:
    """The axis of rows, `None` if there is none, -1 if it has other entries, too."""
    if few == more:
        return None
    if len(few) != len(more):
        return -1
    changed = [axis for axis, pair in enumerate(zip(few, more, strict=True)) if pair[0] != pair[1]]
    (axis, *others) = changed
    return -1 if others or (few[axis], more[axis]) != (FEW, _MORE) else axis
