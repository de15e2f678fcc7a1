"""The negative ELBO as a function of the discrete sites, with Rao-Blackwellized local values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from vijax.contracts import Position, Space, TermInfo, Terms
from vijax.families.discrete import detach
from vijax.objectives.estimators.discrete.estimator import Families, Integrand, IntegrandValue
from vijax.objectives.estimators.rao_blackwell import independent_axes, markov_blanket_sum


def elbo_integrand(
    terms: Callable[[Position], Terms],
    families: Families,
    space: Space,
    term_info: Mapping[str, TermInfo],
) -> Integrand:
    """`f(h) = log q(h) - log p(x, h)`, whose mean over `q` is the negative ELBO.

    The parameters of `q` are fixed in it, since `E_q[dlog q]` is zero. The local value of an entry
    has the terms in its Markov blanket, see `vijax.objectives.estimators.rao_blackwell`.

    Args:
        terms: the log density as a function of the discrete sites.
        families: their distributions.
        space: the space of the discrete sites.
        term_info: dependence structure of the terms.
    """
    fixed = {name: detach(family) for name, family in families.items()}

    def function(states: Position) -> IntegrandValue:
        result = terms(states)
        value, local_values = jnp.zeros(()), {}
        for name in result.values:
            value -= jnp.sum(result.values[name])
        for site in space.sites:
            log_q = site.scale * fixed[site.name].log_prob(states[site.name])
            value += jnp.sum(log_q)
            local_values[site.name] = log_q - markov_blanket_sum(site, result.values, term_info)
        return IntegrandValue(value, local_values, result.mutable)

    axes = {site.name: independent_axes(site, term_info) for site in space.sites}
    return Integrand(function, axes, {site.name: site.scale for site in space.sites})
