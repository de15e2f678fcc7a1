"""Properties of a model from abstract traces: its sites and plates, and how it is subsampled.

`jax.eval_shape` and `jax.make_jaxpr` run the model on abstract values: nothing is computed or
compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate
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
from vijax.runtime.jaxpr import has_gradient, has_loop, loops_over, used_inputs

_LONG = 16  # steps from which the length of a loop, not the number of points, determines the time


class Analysis(NamedTuple):
    """Properties of a model; see `vijax.contracts.target.Structure`.

    Attributes:
        trace: an abstract trace.
        location_scale: sites with a location-scale prior.
        hierarchical: those whose scale depends on other latents.
        sequential: whether there is a long loop.
        differentiable: whether there is a gradient.
    """

    trace: Trace
    location_scale: tuple[str, ...]
    hierarchical: tuple[str, ...]
    sequential: bool
    differentiable: bool


def analyze(traced: TracedModel) -> Analysis:
    """The properties of a model, from an abstract trace on all rows."""
    trace: Trace = {}

    def scales(constant: Array, data: dict[str, Array]) -> dict[str, Array]:
        trace.update(_checked(traced, Batch(data), substitution.at_constant(constant), True))
        return log_densities.log_prior_sds(trace)

    closed, shapes = jax.make_jaxpr(scales, return_shape=True)(1.0, traced.arguments.abstract())
    names = sorted(shapes)  # the leaf order of a dict
    hierarchical = tuple(
        name for name in names if used_inputs(closed.jaxpr, [name == one for one in names])[0]
    )
    sequential = has_loop(closed.jaxpr, _LONG)
    of_latents = [True] + [False] * (len(closed.jaxpr.invars) - 1)
    differentiable = has_gradient(closed.jaxpr) and not loops_over(closed.jaxpr, of_latents)
    return Analysis(trace, tuple(names), hierarchical, sequential, differentiable)


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
    subsampled = subsampled_plates(request, plates, observed)
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
