"""The negative ELBO as a function of the discrete sites, with what each entry has a part in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from vijax.contracts import Position, Space, TermInfo, Terms
from vijax.families.discrete import held
from vijax.objectives.estimators.discrete.estimator import Families, Integrand, IntegrandValue
from vijax.objectives.estimators.rao_blackwell import parallel, markov_blanket_sum


def elbo_integrand(
    terms: Callable[[Position], Terms],
    families: Families,
    space: Space,
    layout: Mapping[str, TermInfo],
) -> Integrand:
    """`log q(h) - log p(x, h)`, whose mean over `q` is the negative ELBO.

    Families are held fixed in it: `E[dlog q]` is zero. What an entry has a part in is told by
    `vijax.objectives.estimators.rao_blackwell`.

    Args:
        terms: the log density given the discrete sites.
        families: their distributions.
        space: of them.
        layout: of the terms.
    """
    fixed = {name: held(family) for name, family in families.items()}

    def function(states: Position) -> IntegrandValue:
        found = terms(states)
        value, signals = jnp.zeros(()), {}
        for name in found.values:
            value -= jnp.sum(found.values[name])
        for site in space.sites:
            own = site.scale * fixed[site.name].log_prob(states[site.name])
            value += jnp.sum(own)
            signals[site.name] = own - markov_blanket_sum(site, found.values, layout)
        return IntegrandValue(value, signals, found.mutable)

    together = {site.name: parallel(site, layout) for site in space.sites}
    return Integrand(function, together, {site.name: site.scale for site in space.sites})
