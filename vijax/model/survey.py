"""What runs on abstract values say of a model: sites, plates, and how its data are subsampled.

`jax.eval_shape` and `jax.make_jaxpr` run the model: nothing is computed or compiled, and no
operation is dispatched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate
from vijax.model.minibatch import plates as minibatch
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import log_densities as reading
from vijax.model.tracing import run as running
from vijax.model.tracing import substitution as samplers
from vijax.model.tracing.sites import all_plates, site_plates
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import has_gradient, has_loop, used_inputs

_LONG = 16  # steps of a loop from which its length counts, not the number of points


class Survey(NamedTuple):
    """What a run on abstract values shows; see `vijax.contracts.target.Structure`.

    Attributes:
        trace: of it.
        location_scale: sites whose prior has a location and a scale.
        hierarchical: those whose scale depends on other latents.
        sequential: whether there is a long loop.
        differentiable: whether there is a gradient.
    """

    trace: running.Trace
    location_scale: tuple[str, ...]
    hierarchical: tuple[str, ...]
    sequential: bool
    differentiable: bool


def survey(traced: TracedModel) -> Survey:
    """Runs the model on abstract values of all rows."""
    kept: running.Trace = {}

    def scales(level: Array, data: dict[str, Array]) -> dict[str, Array]:
        kept.update(_checked(traced, Batch(data), samplers.at_level(level), True))
        return reading.log_prior_sds(kept)

    closed, shapes = jax.make_jaxpr(scales, return_shape=True)(1.0, traced.arguments.abstract())
    names = sorted(shapes)  # as a dict is laid out
    hierarchical = tuple(
        name for name in names if used_inputs(closed.jaxpr, [name == one for one in names])[0]
    )
    endless = has_loop(closed.jaxpr, _LONG)
    return Survey(kept, tuple(names), hierarchical, endless, has_gradient(closed.jaxpr))


def inspect(traced: TracedModel, sampler: running.Sampler, scored: bool = True) -> running.Trace:
    """A trace of abstract values; decides what a batch without an index means."""
    trace = abstract_trace(traced, sampler, scored)
    choose_rows(traced, trace, sampler, scored)
    return trace


def choose_rows(
    traced: TracedModel, trace: running.Trace, sampler: running.Sampler, scored: bool
) -> None:
    """Decides what a batch without an index means.

    That is all rows of a subsampled plate, if the data has them. Data that already is one batch
    of rows, as from a data loader, is used as it is.
    """
    partial = {n: p for n, p in all_plates(trace).items() if p.size != p.subsample_size}
    if partial:
        traced.rows = {name: plate.size for name, plate in partial.items()}
        try:
            abstract_trace(traced, sampler, scored)
        except ModelError:
            traced.rows = {name: plate.subsample_size for name, plate in partial.items()}


def choose_cut(
    traced: TracedModel,
    asked: minibatch.Request,
    trace: running.Trace,
    known: Mapping[str, Plate],
) -> dict[str, Plate]:
    """Decides how minibatches are made, and returns the plates that are subsampled.

    A model that runs on the indices of a batch alone subsamples its arrays itself. For any other
    the arrays along the plate are subsampled before the model sees them.
    """
    observed = {  # factors too
        name: site_plates(site, trace)
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"]
    }
    plates = minibatch.plates(asked, known, observed)
    full = {name: plate.size for name, plate in plates.items()}
    index = {
        name: jax.ShapeDtypeStruct((plate.subsample_size,), np.int32)
        for name, plate in plates.items()
    }
    traced.cut = minibatch.Cut(full)
    with contextlib.suppress(ModelError):
        abstract_trace(traced, samplers.at_origin, True, index)
        return plates
    shapes = {name: shape for name, (shape, _) in traced.arguments.avals.items()}
    traced.cut = minibatch.Cut(full, minibatch.axes(asked, plates, shapes))
    abstract_trace(traced, samplers.at_origin, True, index)
    return plates


def abstract_trace(
    traced: TracedModel,
    sampler: running.Sampler,
    scored: bool,
    index: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> running.Trace:
    """A trace of abstract values; `scored` asks for the log density, too."""
    kept: running.Trace = {}

    def abstract(data: dict[str, Array], index: dict[str, Array]) -> None:
        kept.update(_checked(traced, Batch(data, index), sampler, scored))

    jax.eval_shape(abstract, traced.arguments.abstract(), index or {})
    return kept


def _checked(
    traced: TracedModel, batch: Batch, sampler: running.Sampler, scored: bool
) -> running.Trace:
    trace = traced.trace(batch, sampler, scored=scored)
    if scored:
        traced.log_density(trace)
    return trace
