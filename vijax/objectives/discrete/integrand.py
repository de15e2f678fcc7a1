"""The negative ELBO as a function of the discrete sites, with what each entry has a part in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from vijax._contracts import Layout, Position, Site, Space, Terms
from vijax._discrete import held
from vijax.objectives.discrete.estimator import Families, Integrand, Seen


def elbo_integrand(
    terms: Callable[[Position], Terms],
    families: Families,
    space: Space,
    layout: Mapping[str, Layout],
) -> Integrand:
    """`log q(h) - log p(x, h)`, whose mean over `q` is the negative ELBO.

    Families are held fixed in it: `E[dlog q]` is zero. An entry has no part in terms that do not
    depend on its site, nor in other rows of a plate that a term and the site are both in: rows of
    a plate are independent given what is outside of it. Source: Black box variational inference,
    Ranganath, Gerrish, Blei, 2014, section 3.1.

    Args:
        terms: the log density given the discrete sites.
        families: their distributions.
        space: of them.
        layout: of the terms.
    """
    fixed = {name: held(family) for name, family in families.items()}

    def function(states: Position) -> Seen:
        found = terms(states)
        value, signals = jnp.zeros(()), {}
        for name in found.values:
            value -= jnp.sum(found.values[name])
        for site in space.sites:
            own = site.scale * fixed[site.name].log_prob(states[site.name])
            value += jnp.sum(own)
            signals[site.name] = own - seen_by(site, found.values, layout)
        return Seen(value, signals, found.mutable)

    return Integrand(function, {site.name: parallel(site, layout) for site in space.sites})


def parallel(site: Site, layout: Mapping[str, Layout]) -> tuple[int, ...]:
    """Axes of a site along which its entries have no term in common."""
    seen = [term for term in layout.values() if site.name in term.causes]
    common = [p for p in site.plates if all(p.dim in _shared(site, term) for term in seen)]
    ndim = len(site.shape) - site.event_dim
    return tuple(ndim + plate.dim for plate in common)


def seen_by(site: Site, values: Mapping[str, Array], layout: Mapping[str, Layout]) -> Array:
    """The terms that each entry of a site has a part in, added up; broadcasts to its shape."""
    ndim = len(site.shape) - site.event_dim
    total = jnp.zeros((1,) * ndim)
    for name, value in values.items():
        term = layout[name]
        if site.name not in term.causes:
            continue
        kept = _shared(site, term)
        others = [d for d in range(-value.ndim, 0) if d not in kept]
        value = jnp.sum(value, axis=others, keepdims=True)
        missing = max(ndim - value.ndim, 0)
        total += value.reshape((1,) * missing + value.shape[max(value.ndim - ndim, 0) :])
    return total.reshape(*total.shape, *(1,) * site.event_dim)


def _shared(site: Site, term: Layout) -> set[int]:
    """Dimensions, counted from the right, of the plates that both are in."""
    names = {plate.name for plate in site.plates}
    return {plate.dim for plate in term.plates if plate.name in names}
