"""A model function and its arguments become a `Target`, after one abstract trace.

What is kept are names, shapes and plates. Targets are kept for as long as they are in use among
the last `_KEEP` models, keyed by what the model function does and by the shapes of its arrays, so
that a second fit finds its compiled programs.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

from vijax.contracts import Space, Target
from vijax.contracts.target import Functions, Marginalized, Structure, Subsampling
from vijax.model.discrete.marginalization import planned
from vijax.model.minibatch import plates as minibatch
from vijax.model.survey import Survey, abstract_trace, choose_cut, choose_rows, survey
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import log_densities as reading
from vijax.model.tracing import run as running
from vijax.model.tracing import substitution as samplers
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.checks import check_subsampled
from vijax.model.tracing.sites import all_plates, as_site, dims, is_cut, is_data
from vijax.model.tracing.term_dependence import term_info, term_plates
from vijax.runtime.errors import ModelError
from vijax.runtime.fingerprint import fingerprint

_KEEP = 64
_targets: collections.OrderedDict[Hashable, tuple[Target, TracedModel]] = collections.OrderedDict()


def build(
    model: Callable[..., Any],
    arguments: Arguments,
    asked: minibatch.Request | None = None,
    drawn: running.Drawn = frozenset(),
) -> Target:
    """The target of `model` at arguments of these shapes.

    Args:
        model: the model function.
        arguments: its static arguments.
        asked: which plates of a model that is written for all rows are to be subsampled.
        drawn: discrete sites that are not marginalized but stay in the space.

    Raises:
        ModelError: the model has no latent site, a discrete latent that cannot be marginalized, a
            support without a bijection, a subsampled latent, or it fails to run; the message
            names the site.
    """
    precision = str(jax.dtypes.canonicalize_dtype("float64"))
    lookup = (fingerprint(model), arguments.lookup, asked, drawn, precision)
    if lookup in _targets:
        _targets.move_to_end(lookup)
        target, traced = _targets[lookup]
        # equal now; what the old function has captured may change later
        traced.model = model
        return target
    traced = TracedModel(model, arguments, drawn)
    target = _target(traced, asked)
    _targets[lookup] = target, traced
    while len(_targets) > _KEEP:
        _targets.popitem(last=False)
    return target


def _target(traced: TracedModel, asked: minibatch.Request | None) -> Target:
    """The target of a model that has not been traced before."""
    seen = survey(traced)
    trace = seen.trace
    choose_rows(traced, trace, samplers.at_origin, scored=True)
    plates = all_plates(trace)
    if any(is_cut(site, trace) for _, site, _ in reading.latents(trace)):
        # on all rows, if they are there; what the first run has seen of loops stays
        seen = survey(traced)._replace(
            sequential=seen.sequential, differentiable=seen.differentiable
        )
        trace = seen.trace
        for name, site, _ in reading.latents(trace):
            check_subsampled(name, site, trace)
    if asked is not None:
        plates |= choose_cut(traced, asked, trace, plates)
    traced.sites = tuple(as_site(name, s, trace, r.z) for name, s, r in reading.latents(trace))
    if not traced.sites:
        name = getattr(traced.model, "__name__", type(traced.model).__name__)
        raise ModelError(
            f"model {name!r}: expected at least one continuous latent numpyro.sample site, got "
            "none. Sites with obs= are data; remove it from what is to be inferred."
        )
    space = Space(traced.sites)
    if any(map(running.is_enumerated, trace.values())):
        if traced.rows:  # the trace may have seen fewer
            trace = abstract_trace(traced, samplers.at_origin, scored=False)
        traced.summation = planned(traced.trace, trace, space, traced.arguments.abstract())
    sizes = {name: variable.size for name, variable in traced.plan.variables.items()}
    entries = 0 if traced.summation is None else traced.summation.entries
    return Target(
        space=space,
        functions=_functions(traced, space, trace),
        structure=_structure(traced, seen._replace(trace=trace)),
        subsampling=Subsampling(plates, asked, traced.cut.axes),
        marginalized=Marginalized(sizes, entries),
    )


def _functions(traced: TracedModel, space: Space, trace: running.Trace) -> Functions:
    described = (traced.terms, traced.arguments, space, term_plates(trace))
    return Functions(
        evaluate=traced.evaluate,
        constrain=traced.constrain,
        unconstrain=traced.unconstrain,
        terms=traced.terms,
        site_log_probs=traced.site_log_probs,
        log_dets=traced.log_dets,
        log_prior_sds=traced.log_prior_sds,
        initialize=traced.initialize,
        constrain_params=traced.constrain_params,
        observations=traced.observations,
        draw_discrete=traced.draw_discrete,
        term_info=functools.cache(functools.partial(term_info, *described)),
    )


def _structure(traced: TracedModel, seen: Survey) -> Structure:
    tables = traced.plan.tables  # coordinates must not depend on what is marginalized
    return Structure(
        observed=tuple(name for name, site in seen.trace.items() if is_data(site)),
        dims=dims(seen.trace),
        hierarchical=tuple(name for name in seen.hierarchical if name not in tables),
        location_scale=tuple(name for name in seen.location_scale if name not in tables),
        sequential=seen.sequential,
        differentiable=seen.differentiable,
    )
