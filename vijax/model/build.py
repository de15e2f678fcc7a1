"""Builds a `Target` from a model function and its arguments, by one abstract trace.

A target contains names, shapes and plates, no data. Those of the last `_CACHE_SIZE` models are
cached by a fingerprint of the model function, the shapes of its arrays and the traced program, so
that a second fit reuses its compiled programs. A model is always traced before the cache is asked:
what it read from files, the environment or objects that a fingerprint cannot see into is in the
program.
"""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax

from vijax.contracts import Space, Target
from vijax.contracts.functions import Functions
from vijax.contracts.target import Marginalized, Structure, Subsampling
from vijax.model.analysis import (
    Analysis,
    abstract_trace,
    analyze,
    indexes_rows,
    set_default_rows,
    set_subsampler,
)
from vijax.model.conjugacy.conjugacy import Conjugacy
from vijax.model.discrete.marginalization import plan_marginalization
from vijax.model.minibatch.subsampling import BatchRequest
from vijax.model.prior_location import Moments, is_improper, prior_location
from vijax.model.projections.reader import ProjectionReader
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import substitution
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.checks import check_subsampled
from vijax.model.tracing.discrete_values import COUNTABLY_INFINITE
from vijax.model.tracing.run import SampledSites
from vijax.model.tracing.shared_priors import shared_priors
from vijax.model.tracing.sites import (
    Trace,
    all_plates,
    as_site,
    dims,
    is_data,
    is_enumerated,
    is_subsampled,
    latents,
    site_plates,
)
from vijax.model.tracing.sites import bounds as bounds_of
from vijax.model.tracing.term_dependence import term_info, term_plates
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.errors import ModelError
from vijax.runtime.fingerprint import fingerprint

_CACHE_SIZE = 64
_targets: collections.OrderedDict[Hashable, tuple[Target, TracedModel]] = collections.OrderedDict()
_lock = threading.Lock()


def build_marginalized(
    model: Callable[..., Any],
    arguments: Arguments,
    request: BatchRequest | None = None,
    sampled: SampledSites = frozenset(),
) -> Target:
    """The target of `model` with all discrete sites marginalized that can be.

    Sites in `sampled` are sampled by the guide. If the other discrete sites cannot be marginalized,
    counts without an upper bound are sampled, too; if that fails, or the model has no other
    latents, all discrete sites are.

    Args:
        model: the model function.
        arguments: its static arguments.
        request: as for `build`.
        sampled: discrete sites to be sampled in any case.

    Raises:
        ModelError: no target can be built; the message is that of the first attempt.
    """
    try:
        return build(model, arguments, request, sampled)
    except ModelError:
        try:
            all_sampled = build(model, arguments, request, "all")
        except ModelError:
            all_sampled = None
        if all_sampled is None or not all_sampled.space.discrete.sites:
            raise
    counts = {
        site.name for site in all_sampled.space.sites if site.cardinality == COUNTABLY_INFINITE
    }
    if sampled == "all" or not counts:
        return all_sampled
    try:
        return build(model, arguments, request, sampled | counts)
    except ModelError:
        return all_sampled


def build(
    model: Callable[..., Any],
    arguments: Arguments,
    request: BatchRequest | None = None,
    sampled: SampledSites = frozenset(),
) -> Target:
    """The target of `model` at arguments of these shapes.

    Args:
        model: the model function.
        arguments: its static arguments.
        request: the minibatches of a model that is written for all rows.
        sampled: discrete latent sites to be sampled by the guide, not marginalized.

    Raises:
        ModelError: the model has no latent site, a discrete latent that cannot be marginalized, a
            support without a bijection, a subsampled latent, or it fails to run; the message
            names the site.
    """
    precision = str(jax.dtypes.canonicalize_dtype("float64"))
    traced = TracedModel(model, arguments, sampled)
    analysis = analyze(traced)
    code = fingerprint(model, opaque_by_identity=True)
    lookup = (code, arguments.lookup, request, sampled, precision, analysis.digest)
    with _lock:
        found = _targets.get(lookup)
    if found is not None:
        target, traced = found
        # equal now; variables captured by the old function may change later
        traced.model = model
    else:
        target = _target(traced, analysis, request)
    with _lock:
        _targets[lookup] = target, traced
        _targets.move_to_end(lookup)
        while len(_targets) > _CACHE_SIZE:
            _targets.popitem(last=False)
    return target


def _target(traced: TracedModel, analysis: Analysis, request: BatchRequest | None) -> Target:
    """The target of a model that is not in the cache."""
    trace = analysis.trace
    set_default_rows(traced, trace, substitution.at_origin, with_log_density=True)
    plates, whole = all_plates(trace), True
    if any(is_subsampled(site, trace) for _, site, _ in latents(trace)):
        # again, now on all rows if the data have them; loops are those of the first trace
        analysis = analyze(traced)._replace(
            sequential=analysis.sequential,
            differentiable=analysis.differentiable,
            digest=analysis.digest,
            data_use=analysis.data_use,
        )
        trace = analysis.trace
        whole = not any(is_subsampled(site, trace) for _, site, _ in latents(trace))
        if not (whole or indexes_rows(traced)):
            for name, site, _ in latents(trace):
                check_subsampled(name, site, trace)
    if request is not None:
        plates |= set_subsampler(traced, request, trace, plates)
    sizes = {name: plate.size for name, plate in plates.items() if name in traced.default_rows}
    traced.sites = tuple(
        as_site(name, s, trace, r.z).on_rows({} if whole else sizes)
        for name, s, r in latents(trace)
    )
    _check_latents(traced, trace)
    traced.shared_priors = shared_priors(trace)
    space = Space(traced.sites)
    if any(map(is_enumerated, trace.values())):
        if traced.default_rows:  # the trace may have fewer rows
            trace = abstract_trace(traced, substitution.at_origin, with_log_density=False)
        traced.marginalization = plan_marginalization(
            traced.trace, trace, space, traced.arguments.abstract()
        )
    num_values = {name: variable.size for name, variable in traced.plan.variables.items()}
    entries = 0 if traced.marginalization is None else traced.marginalization.entries
    return Target(
        space=space,
        functions=functions_of(traced, space, trace),
        structure=_structure(traced, analysis._replace(trace=trace), space),
        subsampling=Subsampling(plates, request, traced.subsampler.axes, whole),
        marginalized=Marginalized(num_values, entries),
    )


def _check_latents(traced: TracedModel, trace: Trace) -> None:
    """Checks that there is something to infer: latents, or parameters of a stochastic bound.

    Raises:
        ModelError: there is not, or a stochastic bound is not in a plate, so that no batch of rows
            has its expectation, or beside a site that would be marginalized.
    """
    bounds = bounds_of(trace)
    for name in bounds:
        number = len(site_plates(trace[name], trace))
        if number != 1:
            raise ModelError(
                f"site {name!r}: expected it to be in one plate, that of the rows, got {number}. "
                "Write `with numpyro.plate('rows', len(x)):` around it."
            )
    enumerated = [name for name, site in trace.items() if is_enumerated(site)]
    if bounds and enumerated:
        raise ModelError(
            f"site {enumerated[0]!r}: expected no discrete latents beside {next(iter(bounds))!r}, "
            "a stochastic bound, with which they cannot be marginalized."
        )
    params = [name for name, site in trace.items() if site["type"] == "param"]
    if bounds and params:
        return
    name = getattr(traced.model, "__name__", type(traced.model).__name__)
    if not traced.sites and params:
        raise ModelError(
            f"model {name!r}: expected a latent numpyro.sample site, got param sites {params} "
            "only, which is maximum likelihood without a posterior. Give them priors "
            "(numpyro.sample), or use numpyro.infer.SVI with an empty guide."
        )
    if not traced.sites:
        raise ModelError(
            f"model {name!r}: expected at least one continuous latent numpyro.sample site, got "
            "none. Sites with obs= are data; remove it from sites to be inferred."
        )
    if not any(site.size for site in traced.sites):
        raise ModelError(
            f"site {traced.sites[0].name!r}: expected a latent with entries in the model, got "
            f"shape {traced.sites[0].shape}, and no other latent has any. There is nothing to "
            "infer."
        )


def functions_of(traced: TracedModel, space: Space, trace: Trace) -> Functions:
    """The functions of a target whose model has this trace."""
    in_use = space.on_rows(traced.default_rows)
    conjugacy = Conjugacy(traced)
    projections = ProjectionReader(traced)
    described = (traced.terms, traced.arguments, in_use, term_plates(trace))
    return Functions(
        evaluate=traced.evaluate,
        constrain=traced.constrain,
        unconstrain=traced.unconstrain,
        terms=traced.terms,
        site_log_probs=traced.site_log_probs,
        fisher_root=traced.fisher_root,
        log_dets=traced.log_dets,
        log_prior_sds=traced.log_prior_sds,
        initialize=traced.initialize,
        starts=traced.starts,
        constrain_params=traced.constrain_params,
        observations=traced.observations,
        draw_discrete=traced.draw_discrete,
        discrete_probs=traced.discrete_probs,
        term_info=functools.cache(functools.partial(term_info, *described)),
        conjugate_plan=functools.cache(conjugacy.plan),
        expected_log_joint=conjugacy.expected_log_joint,
        conjugate_evaluate=conjugacy.evaluate,
        compare_reading=conjugacy.compare,
        word_counts=conjugacy.word_counts,
        projection_plan=functools.cache(projections.plan),
        projections=projections.projections,
    )


def _structure(traced: TracedModel, analysis: Analysis, space: Space) -> Structure:
    specs = traced.plan.specs  # the parameterization must not depend on marginalized sites
    return Structure(
        observed=tuple(name for name, site in analysis.trace.items() if is_data(site)),
        dims=dims(analysis.trace),
        hierarchical=tuple(name for name in analysis.hierarchical if name not in specs),
        location_scale=tuple(name for name in analysis.location_scale if name not in specs),
        bounds=bounds_of(analysis.trace),
        sequential=analysis.sequential,
        differentiable=analysis.differentiable,
        priors=_priors(analysis, space),
        improper=tuple(
            site.name
            for site in space.continuous.sites
            if site.name in analysis.trace and is_improper(analysis.trace[site.name]["fn"])
        ),
        program=analysis.digest,
        mixture_sizes=_mixture_sizes(analysis.trace),
        **analysis.data_use()._asdict(),
    )


def _mixture_sizes(trace: Trace) -> tuple[int, ...]:
    """The numbers of components of mixture distributions that data are observed from."""
    observed = [base_distribution(site["fn"]) for site in trace.values() if is_data(site)]
    sizes = (getattr(fn, "mixture_size", None) for fn in observed)
    return tuple(dict.fromkeys(size for size in sizes if size is not None))


def _priors(analysis: Analysis, space: Space) -> dict[str, Moments]:
    """Location and scale of the sites whose prior has constant parameters."""
    found = {}
    for site in space.continuous.sites:
        fn = analysis.trace[site.name]["fn"] if site.name in analysis.trace else None
        on_all_rows = fn is not None and tuple(fn.shape()) == site.shape
        moments = prior_location(fn, site.z_shape) if on_all_rows else None
        if moments is not None and site.name not in analysis.hierarchical:
            found[site.name] = moments
    return found
