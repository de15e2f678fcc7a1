"""What a trace says: the log density and its parts, values, mutable state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from vijax.contracts import PyTree
from vijax.model.tracing.checks import naming
from vijax.model.tracing.handler import Record, count_masks
from vijax.model.tracing.run import Site, Trace, is_drawn, is_enumerated
from vijax.runtime.precision import full_precision


def latents(trace: Trace) -> Iterator[tuple[str, Site, Record]]:
    """The sites of a trace whose values came from unconstrained space."""
    for name, site in trace.items():
        record = site.get("intermediates")
        if isinstance(record, Record) and record.z is not None and not site["is_observed"]:
            yield name, site, record


def log_probs(trace: Trace, scaled: bool = True) -> dict[str, Array]:
    """Log density by sample site, elementwise over its batch; `log |Jacobian|` not included.

    Args:
        trace: from `run`.
        scaled: whether plate and `scale` factors are applied.
    """
    out = {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        log_prob = elementwise(site)
        if scaled and site["scale"] is not None:
            log_prob = site["scale"] * log_prob
        out[name] = log_prob
    return out


def powered(trace: Trace, names: Iterable[str]) -> dict[str, Array]:
    """Log density of some sites, elementwise, with the factors of `scale` handlers only."""
    out = {}
    for name in names:
        scale, log_prob = trace[name]["scale"], elementwise(trace[name])
        scale = None if scale is None else scale / plate_scale(trace, trace[name])
        out[name] = log_prob if scale is None else scale * log_prob
    return out


def elementwise(site: Mapping[str, Any]) -> Array:
    """Log density of a sample site over its batch, unscaled."""
    with naming(site), full_precision():
        return _log_prob(site)


def _log_prob(site: Mapping[str, Any]) -> Array:
    record, fn = site.get("intermediates"), site["fn"]
    if not isinstance(record, Record) or record.log_prob is None:
        return fn.log_prob(site["value"])
    log_prob = record.log_prob
    if is_enumerated(site) or is_drawn(site):
        return log_prob
    while count_masks(fn) > site["_masks"]:  # masks round the control flow primitive
        if isinstance(fn, dist.MaskedDistribution):
            log_prob = jnp.where(fn._mask, log_prob, 0.0)
        fn = fn.base_dist
    return log_prob


def log_density(trace: Trace) -> Array:
    """Log density of a trace in unconstrained space, a scalar."""
    log_prob = sum((jnp.sum(value) for value in log_probs(trace).values()), jnp.zeros(()))
    return sum(log_dets(trace).values(), log_prob)


def log_dets(trace: Trace, bent: bool = False) -> dict[str, Array]:
    """`log |dx/dz|` by latent site, scalars, for a trace from `from_unconstrained`.

    `bent` leaves sites out whose coordinates are their values, so that it is zero.
    """
    # a subsampled plate scales the Jacobian with the density; `scale` and `mask` act on the
    # density alone
    return {
        name: plate_scale(trace, site) * jnp.sum(jnp.asarray(record.log_det))
        for name, site, record in latents(trace)
        if not (bent and _is_flat(site, record))
    }


def _is_flat(site: Mapping[str, Any], record: Record) -> bool:
    """Whether the coordinates of a site are its values."""
    if is_drawn(site):
        return True
    support = site["fn"].support
    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    return support is constraints.real and record.log_prior_sd is None


def log_prior_sds(trace: Trace) -> dict[str, Array]:
    """Log prior sd, given all else, of the sites in coordinates of another centering, like `z`."""
    return {
        name: record.log_prior_sd
        for name, _, record in latents(trace)
        if record.log_prior_sd is not None
    }


def values(trace: Trace) -> dict[str, Array]:
    """Latent sites and deterministics."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }


def mutable(trace: Trace) -> dict[str, PyTree]:
    """The mutable state that a run has left behind."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def plate_scale(trace: Trace, site: Mapping[str, Any]) -> float:
    """Full rows over rows in use, multiplied over the plates of a site."""
    scales = plate_scales(trace)
    own = {frame.name for frame in site["cond_indep_stack"]}
    return math.prod(scale for name, scale in scales.items() if name in own)


def plate_scales(trace: Trace) -> dict[str, float]:
    """Full rows over rows in use, by plate."""
    plates = {name: site["args"] for name, site in trace.items() if site["type"] == "plate"}
    return {name: size / (used or size) for name, (size, used) in plates.items()}
