"""Rao-Blackwellization of score-function gradients: only the Markov blanket of each factor.

With `q = prod_k q_k`, `E_q[h dlog q_k] = 0` for any `h` that does not depend on the draws of factor
`k`. The gradient of factor `k` therefore needs only the terms of the log density that depend on its
sites, its Markov blanket, and that of a row of a plate only this row's terms, since rows are
independent given the sites outside of the plate. Source: Black box variational inference,
Ranganath, Gerrish, Blei, 2014, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import (
    Batch,
    DensityGuide,
    DiscreteGuide,
    MeanFieldGuide,
    Part,
    Position,
    RowGuide,
    Site,
    TermInfo,
)


class DensityFactor(NamedTuple):
    """An independent factor `q_k` of a guide's density at a point.

    Attributes:
        sites: the sites of the factor.
        log_q: `log q_k` by coordinate of a site, by row of a plate, or a scalar.
        local_loss: `log q_k` scaled for subsampling, less the terms in its Markov blanket, under
            `stop_gradient`; broadcasts to the shape of `log_q`.
        scaled: sum of `log q_k` scaled for subsampling.
    """

    sites: tuple[Site, ...]
    log_q: Array
    local_loss: Array
    scaled: Array


def density_factors(
    part: Part,
    z: Position,
    batch: Batch,
    values: Mapping[str, Array],
    term_info: Mapping[str, TermInfo],
) -> list[DensityFactor]:
    """The finest factorization `q = prod_k q_k` of a guide, evaluated at `z`.

    Args:
        part: a guide with a density, and its parameters.
        z: a draw from it.
        batch: the data.
        values: the terms of the target's log density at `z`.
        term_info: dependence structure of the terms.
    """
    guide, params, space = part
    rest = (z, batch, values, term_info)

    def coordinatewise(site: Site, log_q: Array) -> DensityFactor:
        blanket = markov_blanket_sum(site, values, term_info)
        return _factor((site,), log_q, site.scale, blanket)

    if isinstance(guide, DiscreteGuide):
        families = guide.families(params, space, batch)
        discrete = [
            coordinatewise(s, families[s.name].log_prob(z[s.name])) for s in space.discrete.sites
        ]
        others = guide.continuous(params, space)
        return discrete if others is None else [*discrete, *density_factors(others, *rest)]
    if isinstance(guide, MeanFieldGuide):
        log_probs = guide.site_log_probs(params, space, z, batch)
        return [coordinatewise(site, log_probs[site.name]) for site in space.sites]
    if len(parts := guide.independent_parts(params, space)) > 1:
        return [factor for one in parts for factor in density_factors(one, *rest)]
    if isinstance(guide, RowGuide):
        plate = {plate.name for plate in space.sites[0].plates}
        log_q = guide.row_log_probs(params, space, z, batch)
        blanket = jnp.ravel(_dependent_sum(space.names, plate, values, term_info))
        return [_factor(space.sites, log_q, space.sites[0].scale, blanket)]
    assert isinstance(guide, DensityGuide)
    scales = {site.scale for site in space.sites}
    scale = scales.pop() if len(scales) == 1 else 1.0
    log_q = guide.log_prob(params, space, z, batch) / scale
    blanket = jnp.sum(_dependent_sum(space.names, (), values, term_info))
    return [_factor(space.sites, log_q, scale, blanket)]


def leave_one_out(log_qs: Sequence[Array], local_losses: Sequence[Array]) -> Array:
    """Score-function surrogate with leave-one-out baseline, summed over factors and entries.

    `mean_i (f_i - mean_{j != i} f_j) log q_i`. Its gradient is an unbiased estimate of that of
    `E_q[f]`. Source: Buy 4 REINFORCE samples, get a baseline for free!, Kool, van Hoof, Welling,
    2019.

    Args:
        log_qs: by factor, `(num_draws, ...)`.
        local_losses: by factor, its local loss `f`; broadcasts to the shape of `log_q`.
    """
    total = jnp.zeros(())
    for log_q, local_loss in zip(log_qs, local_losses, strict=True):
        fixed = stop_gradient(local_loss)
        # f_i - mean of the others = (f_i - mean of all) n / (n - 1)
        advantage = (fixed - jnp.mean(fixed, axis=0)) / (len(fixed) - 1)
        total += jnp.sum(advantage * log_q)
    return total


def markov_blanket_sum(
    site: Site, values: Mapping[str, Array], term_info: Mapping[str, TermInfo]
) -> Array:
    """Sum of the terms that depend on each coordinate of a site; broadcasts to its `z_shape`."""
    ndim = len(site.shape) - site.event_dim
    total = _dependent_sum([site.name], {plate.name for plate in site.plates}, values, term_info)
    rows = (1,) * max(ndim - total.ndim, 0) + total.shape[max(total.ndim - ndim, 0) :]
    return total.reshape(*rows, *(1,) * (len(site.z_shape) - ndim))


def independent_axes(site: Site, term_info: Mapping[str, TermInfo]) -> tuple[int, ...]:
    """Axes of a site along which its entries have no term of the log density in common."""
    terms = [term for term in term_info.values() if site.name in term.parents]
    names = {plate.name for plate in site.plates}
    common = [p for p in site.plates if all(p.dim in _dims(term, names) for term in terms)]
    ndim = len(site.shape) - site.event_dim
    return tuple(ndim + plate.dim for plate in common)


def coupled_size(site: Site, term_info: Mapping[str, TermInfo]) -> int:
    """Number of a site's entries that share terms: those of one row along its independent axes."""
    independent = independent_axes(site, term_info)
    return math.prod(n for axis, n in enumerate(site.shape) if axis not in independent)


def _factor(sites: tuple[Site, ...], log_q: Array, scale: float, blanket: Array) -> DensityFactor:
    scaled = scale * log_q
    return DensityFactor(sites, log_q, stop_gradient(scaled - blanket), jnp.sum(scaled))


def _dependent_sum(
    names: Collection[str],
    plates: Collection[str],
    values: Mapping[str, Array],
    term_info: Mapping[str, TermInfo],
) -> Array:
    """Sum of the terms that depend on any of the sites, over all dimensions but `plates`.

    Its dimensions are those of the plates, counted from the right; all others have length one.
    """
    total = jnp.zeros(())
    for name, value in values.items():
        term = term_info[name]
        if term.parents.isdisjoint(names):
            continue
        kept = _dims(term, plates)
        others = [d for d in range(-value.ndim, 0) if d not in kept]
        total = total + jnp.sum(value, axis=others, keepdims=True)
    return total


def _dims(term: TermInfo, plates: Collection[str]) -> set[int]:
    """Dimensions, counted from the right, of those of the plates that a term is in."""
    return {plate.dim for plate in term.plates if plate.name in plates}
