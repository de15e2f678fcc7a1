"""The log density of a trace, its terms by site, and log Jacobians."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.alike import alike_sites, stacked_log_prob
from vijax.model.tracing.checks import site_errors
from vijax.model.tracing.handler import Record, combined_mask, count_masks
from vijax.model.tracing.parameter_support import valid_parameters
from vijax.model.tracing.sites import (
    Trace,
    is_enumerated,
    is_sampled,
    latents,
    plate_scale,
)
from vijax.model.tracing.supports import is_unbounded
from vijax.runtime.errors import ModelError
from vijax.runtime.precision import full_precision
from vijax.runtime.stacks import stack


def log_probs(trace: Trace, scaled: bool = True) -> dict[str, Array]:
    """Log density by sample site, elementwise over its batch; `log |Jacobian|` not included.

    Args:
        trace: from `run_model`.
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


def handler_scaled_log_probs(
    trace: Trace, names: Iterable[str], unmasked: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Log density of some sites, elementwise, with `scale` factors but without plate scales.

    Args:
        trace: from `run_model`.
        names: of the sites.
        unmasked: enumerated sites whose masks are not applied.
    """
    out = {}
    for name in names:
        scale, log_prob = trace[name]["scale"], elementwise(trace[name], name not in unmasked)
        scale = None if scale is None else scale / plate_scale(trace, trace[name])
        out[name] = log_prob if scale is None else scale * log_prob
    return out


def elementwise(site: Mapping[str, Any], masked: bool = True) -> Array:
    """Log density of a sample site over its batch, unscaled.

    Args:
        site: of a trace.
        masked: whether the masks of an enumerated site are applied.
    """
    with site_errors(site), full_precision():
        log_prob = _log_prob(site)
    if jnp.iscomplexobj(log_prob):
        raise ModelError(
            f"site {site['name']!r}: expected a real log density, got {log_prob.dtype}. Observe "
            "the real and the imaginary part of complex data as two sites: y.real and y.imag."
        )
    log_prob = _where_valid(site, log_prob)
    mask = site_mask(site) if masked and is_enumerated(site) else None
    return log_prob if mask is None else jnp.where(mask, log_prob, 0.0)


def _where_valid(site: Mapping[str, Any], log_prob: Array) -> Array:
    """The log density, minus infinity where parameters are outside of their support."""
    valid = valid_parameters(site["fn"])
    if valid is None:
        return log_prob
    mask = site_mask(site)  # parameters of masked entries are not used
    return jnp.where(valid if mask is None else valid | ~mask, log_prob, -jnp.inf)


def site_mask(site: Mapping[str, Any]) -> Array | None:
    """The product of a site's masks, `None` without any; it broadcasts with the log density."""
    record, mask = site.get("intermediates"), combined_mask(site["fn"])
    inner = record.mask if isinstance(record, Record) else None
    if mask is None or inner is None:
        return inner if mask is None else mask
    return mask & inner


def _log_prob(site: Mapping[str, Any]) -> Array:
    record, fn = site.get("intermediates"), site["fn"]
    if not isinstance(record, Record) or record.log_prob is None:
        return fn.log_prob(site["value"])
    log_prob = record.log_prob
    if is_enumerated(site) or is_sampled(site):
        return log_prob
    while count_masks(fn) > site["_num_masks"]:  # masks around the control flow primitive
        if isinstance(fn, dist.MaskedDistribution):
            log_prob = jnp.where(fn._mask, log_prob, 0.0)
        fn = fn.base_dist
    return log_prob


def log_density(trace: Trace) -> Array:
    """Log density of a trace in unconstrained space, a scalar.

    Many small sites with distributions of one kind, as of a model with a loop over its data, are
    evaluated together: tracing and compilation take a time for every operation.
    """
    groups, others = alike_sites(trace)
    total = jnp.zeros(())
    for value in log_probs(others).values():
        total += jnp.sum(value)
    stacks: dict[Hashable, Array] = {}
    for sites in groups:
        with site_errors(sites[0]):
            total += stacked_log_prob(sites, stacks)
    jacobians = [*log_dets(trace, skip_identity=True).values()]
    return total + jnp.sum(stack(jacobians)) if jacobians else total


def log_dets(trace: Trace, skip_identity: bool = False) -> dict[str, Array]:
    """`log |dx/dz|` by latent site, scalars, for a trace from `from_unconstrained`.

    Args:
        trace: from `run_model`.
        skip_identity: whether to omit sites with `x = z`, whose log Jacobian is zero.
    """
    # a subsampled plate scales the Jacobian with the density; `scale` and `mask` act on the
    # density alone
    found = {}
    for name, site, record in latents(trace):
        if skip_identity and _is_identity(site, record):
            continue
        scale, log_det = plate_scale(trace, site), jnp.asarray(record.log_det)
        log_det = jnp.sum(log_det) if log_det.ndim else log_det
        found[name] = log_det if scale == 1 else scale * log_det
    return found


def _is_identity(site: Mapping[str, Any], record: Record) -> bool:
    """Whether the value of a site equals its unconstrained value."""
    if is_sampled(site):
        return True
    return is_unbounded(site["fn"]) and record.log_prior_sd is None


def log_prior_sds(trace: Trace) -> dict[str, Array]:
    """Log conditional prior sd, shaped like `z`, of the sites for which it was recorded."""
    return {
        name: record.log_prior_sd
        for name, _, record in latents(trace)
        if record.log_prior_sd is not None
    }
