"""What of a log density the draws of each part of a guide have a part in.

The score of a part of a guide that is independent of all others has mean zero, and times what does
not depend on that part's draws still has mean zero. So each part needs to hear only of the terms of
the log density that its sites have a part in, its Markov blanket, and each row of a plate only of
its own rows of these: rows of a plate are independent given what is outside of it. Source: Black
box variational inference, Ranganath, Gerrish, Blei, 2014, section 3.1.
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
    Part,
    Position,
    RowGuide,
    Site,
    MeanFieldGuide,
    TermInfo,
)


class Factor(NamedTuple):
    """An independent part of a guide's density at a point.

    Attributes:
        sites: what it is the density of.
        log_q: log density by entry of a site, by row of a plate, or a scalar.
        signal: the same, scaled as the model's own is, less the terms that it has a part in;
            broadcasts to the same shape. Held fixed.
        scaled: sum of the scaled log density.
    """

    sites: tuple[Site, ...]
    log_q: Array
    signal: Array
    scaled: Array


def factors(
    part: Part,
    z: Position,
    batch: Batch,
    values: Mapping[str, Array],
    layout: Mapping[str, TermInfo],
) -> list[Factor]:
    """The independent parts of a guide, as small as it has them.

    Args:
        part: the guide with its parameters, one with a density.
        z: draws of it.
        batch: the data.
        values: the terms of the target's log density there.
        layout: of the terms.
    """
    guide, params, space = part
    inside = (z, batch, values, layout)

    def by_entry(site: Site, log_q: Array) -> Factor:
        return _factor((site,), log_q, site.scale, markov_blanket_sum(site, values, layout))

    if isinstance(guide, DiscreteGuide):
        families = guide.families(params, space, batch)
        found = [by_entry(s, families[s.name].log_prob(z[s.name])) for s in space.discrete.sites]
        rest = guide.continuous(params, space)
        return found if rest is None else [*found, *factors(rest, *inside)]
    if isinstance(guide, MeanFieldGuide):
        log_probs = guide.site_log_probs(params, space, z, batch)
        return [by_entry(site, log_probs[site.name]) for site in space.sites]
    if len(parts := guide.independent_parts(params, space)) > 1:
        return [one for own in parts for one in factors(own, *inside)]
    if isinstance(guide, RowGuide):
        plate = {plate.name for plate in space.sites[0].plates}
        log_q = guide.row_log_probs(params, space, z, batch)
        seen = jnp.ravel(_seen(space.names, plate, values, layout))
        return [_factor(space.sites, log_q, space.sites[0].scale, seen)]
    assert isinstance(guide, DensityGuide)
    scales = {site.scale for site in space.sites}
    scale = scales.pop() if len(scales) == 1 else 1.0
    log_q = guide.log_prob(params, space, z, batch) / scale
    return [_factor(space.sites, log_q, scale, jnp.sum(_seen(space.names, (), values, layout)))]


def leave_one_out(log_qs: Sequence[Array], signals: Sequence[Array]) -> Array:
    """The score function's surrogate, with the mean of all other draws as baseline of each.

    `mean_i (f_i - mean_{j != i} f_j) log q_i`, summed over parts and their entries. Its gradient is
    that of the mean of `f`. Source: Buy 4 REINFORCE samples, get a baseline for free!, Kool, van
    Hoof, Welling, 2019.

    Args:
        log_qs: of each part, `(num_draws, ...)`.
        signals: what each has a part in, which broadcast to these shapes.
    """
    total = jnp.zeros(())
    for log_q, signal in zip(log_qs, signals, strict=True):
        fixed = stop_gradient(signal)
        # f_i less the mean of the others is the deviation from the mean of all, stretched
        advantage = (fixed - jnp.mean(fixed, axis=0)) / (len(fixed) - 1)
        total += jnp.sum(advantage * log_q)
    return total


def markov_blanket_sum(site: Site, values: Mapping[str, Array], layout: Mapping[str, TermInfo]) -> Array:
    """The terms that each entry of a site has a part in, added up; broadcasts to its `z_shape`."""
    ndim = len(site.shape) - site.event_dim
    total = _seen([site.name], {plate.name for plate in site.plates}, values, layout)
    rows = (1,) * max(ndim - total.ndim, 0) + total.shape[max(total.ndim - ndim, 0) :]
    return total.reshape(*rows, *(1,) * (len(site.z_shape) - ndim))


def parallel(site: Site, layout: Mapping[str, TermInfo]) -> tuple[int, ...]:
    """Axes of a site along which its entries have no term in common."""
    seen = [term for term in layout.values() if site.name in term.parents]
    names = {plate.name for plate in site.plates}
    common = [p for p in site.plates if all(p.dim in _dims(term, names) for term in seen)]
    ndim = len(site.shape) - site.event_dim
    return tuple(ndim + plate.dim for plate in common)


def row_size(site: Site, layout: Mapping[str, TermInfo]) -> int:
    """Number of a site's entries that share terms with one another: those of one such row."""
    together = parallel(site, layout)
    return math.prod(n for axis, n in enumerate(site.shape) if axis not in together)


def _factor(sites: tuple[Site, ...], log_q: Array, scale: float, seen: Array) -> Factor:
    scaled = scale * log_q
    return Factor(sites, log_q, stop_gradient(scaled - seen), jnp.sum(scaled))


def _seen(
    names: Collection[str],
    plates: Collection[str],
    values: Mapping[str, Array],
    layout: Mapping[str, TermInfo],
) -> Array:
    """The terms that any of the sites has a part in, added up over all dimensions but `plates`.

    Dimensions are those of the plates, counted from the right; all others have length one.
    """
    total = jnp.zeros(())
    for name, value in values.items():
        term = layout[name]
        if term.parents.isdisjoint(names):
            continue
        kept = _dims(term, plates)
        others = [d for d in range(-value.ndim, 0) if d not in kept]
        total = total + jnp.sum(value, axis=others, keepdims=True)
    return total


def _dims(term: TermInfo, plates: Collection[str]) -> set[int]:
    """Dimensions, counted from the right, of those of the plates that a term is in."""
    return {plate.dim for plate in term.plates if plate.name in plates}
