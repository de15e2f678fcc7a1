"""Properties of a model from abstract traces: its sites and plates, and how it is subsampled.

`jax.eval_shape` and `jax.make_jaxpr` run the model on abstract values: nothing is computed or
compiled.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate
from vijax.model.data_use import DataUse, data_use, values_and_distributions
from vijax.model.minibatch.subsampling import (
    BatchRequest,
    Subsampler,
    subsampled_axes,
    subsampled_plates,
)
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import log_densities, substitution
from vijax.model.tracing.handler import SubstituteFn
from vijax.model.tracing.sites import Trace, all_plates, site_plates
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import (
    depends_on_first_input,
    has_gradient,
    has_loop,
    loops_over,
    used_inputs,
)
from vijax.runtime.jaxpr_digest import jaxpr_digest

_LONG = 16  # steps from which the length of a loop, not the number of points, determines the time


class Analysis(NamedTuple):
    """Properties of a model; see `vijax.contracts.target.Structure`.

    Attributes:
        trace: an abstract trace.
        location_scale: sites with a location-scale prior.
        hierarchical: those whose scale depends on other latents.
        sequential: whether there is a long loop.
        differentiable: whether there is a gradient.
        digest: of the traced program, with all that the model read while it was traced.
        data_use: what the program does with the data, found when called.
    """

    trace: Trace
    location_scale: tuple[str, ...]
    hierarchical: tuple[str, ...]
    sequential: bool
    differentiable: bool
    digest: str
    data_use: Callable[[], DataUse]


def analyze(traced: TracedModel) -> Analysis:
    """The properties of a model, from an abstract trace on all rows."""
    trace: Trace = {}

    def scales(constant: Array, data: dict[str, Array]) -> tuple[dict[str, Array], Any]:
        trace.update(traced.trace(Batch(data), substitution.at_constant(constant)))
        # outputs, so that the program contains all that they are computed from
        others = traced.log_density(trace), values_and_distributions(trace)
        return log_densities.log_prior_sds(trace), others

    run = jax.make_jaxpr(scales, return_shape=True)
    data = traced.arguments.abstract()
    closed, (shapes, _) = run(1.0, data)
    names = sorted(shapes)  # the leaf order of a dict, whose leaves are the first outputs
    dependent = depends_on_first_input(closed.jaxpr, range(len(names)))
    hierarchical = tuple(itertools.compress(names, dependent))
    of_latents = [True] + [False] * (len(closed.jaxpr.invars) - 1)
    return Analysis(
        trace,
        location_scale=tuple(names),
        hierarchical=hierarchical,
        sequential=has_loop(closed.jaxpr, _LONG),
        differentiable=has_gradient(closed.jaxpr) and not loops_over(closed.jaxpr, of_latents),
        digest=jaxpr_digest(closed, [(name, site["type"]) for name, site in trace.items()]),
        data_use=functools.partial(data_use, closed, trace, len(names) + 1, [None, *sorted(data)]),
    )


def trace_with_default_rows(
    traced: TracedModel, substitute_fn: SubstituteFn, with_log_density: bool = True
) -> Trace:
    """An abstract trace; also sets the default rows of subsampled plates."""
    trace = abstract_trace(traced, substitute_fn, with_log_density)
    set_default_rows(traced, trace, substitute_fn, with_log_density)
    return trace


def set_default_rows(
    traced: TracedModel, trace: Trace, substitute_fn: SubstituteFn, with_log_density: bool
) -> None:
    """Sets the rows of subsampled plates that are used for a batch without an index.

    These are all rows, if the data have them. Data that are a single minibatch, as from a data
    loader, are used unchanged.
    """
    partial = {n: p for n, p in all_plates(trace).items() if p.size != p.subsample_size}
    if partial:
        traced.default_rows = {name: plate.size for name, plate in partial.items()}
        try:
            abstract_trace(traced, substitute_fn, with_log_density)
        except ModelError:
            traced.default_rows = {name: plate.subsample_size for name, plate in partial.items()}


def indexes_rows(traced: TracedModel) -> bool:
    """Whether a model that does not run on all rows at once takes those in use from its arrays.

    Data that are a single minibatch have no other rows.
    """
    if len(traced.default_rows) != 1:
        return False
    ((plate, used),) = traced.default_rows.items()
    index = {plate: jax.ShapeDtypeStruct((used,), np.int32)}

    def log_density(index: dict[str, Array], data: dict[str, Array]) -> Array:
        trace = traced.trace(Batch(data, index), substitution.at_origin)
        sizes.update(p.size for name, p in all_plates(trace).items() if name == plate)
        return traced.log_density(trace)

    sizes: set[int] = set()
    jaxpr = jax.make_jaxpr(log_density)(index, traced.arguments.abstract()).jaxpr
    shapes = [shape for shape, _ in traced.arguments.avals.values()]
    return used_inputs(jaxpr, [True])[0] and any(sizes & {*shape} for shape in shapes)


def set_subsampler(
    traced: TracedModel, request: BatchRequest, trace: Trace, plates: Mapping[str, Plate]
) -> dict[str, Plate]:
    """Sets how minibatches are subsampled, and returns the subsampled plates.

    A model that runs given only the indices of a minibatch indexes its arrays itself. For any other
    the arrays along the plates are subsampled before the model is called.
    """
    observed = {  # factors too
        name: site_plates(site, trace)
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"]
    }
    in_loops = all(trace[name].get("_loops") for name in observed)
    subsampled = subsampled_plates(request, plates, observed, in_loops)
    full_sizes = {name: plate.size for name, plate in subsampled.items()}
    index = {
        name: jax.ShapeDtypeStruct((plate.subsample_size,), np.int32)
        for name, plate in subsampled.items()
    }
    traced.subsampler = Subsampler(full_sizes)
    with contextlib.suppress(ModelError):
        abstract_trace(traced, substitution.at_origin, True, index)
        return subsampled
    shapes = {name: shape for name, (shape, _) in traced.arguments.avals.items()}
    traced.subsampler = Subsampler(full_sizes, subsampled_axes(request, subsampled, shapes))
    abstract_trace(traced, substitution.at_origin, True, index)
    return subsampled


def abstract_trace(
    traced: TracedModel,
    substitute_fn: SubstituteFn,
    with_log_density: bool,
    index: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> Trace:
    """A trace of abstract values; `with_log_density` evaluates its log density, too."""
    trace: Trace = {}

    def abstract(data: dict[str, Array], index: dict[str, Array]) -> None:
        trace.update(_checked(traced, Batch(data, index), substitute_fn, with_log_density))

    jax.eval_shape(abstract, traced.arguments.abstract(), index or {})
    return trace


def _checked(
    traced: TracedModel, batch: Batch, substitute_fn: SubstituteFn, with_log_density: bool
) -> Trace:
    trace = traced.trace(batch, substitute_fn, with_log_density=with_log_density)
    if with_log_density:
        traced.log_density(trace)
    return trace
