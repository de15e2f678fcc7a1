"""The evidence lower bound with free bits."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import LossContext, NonElboObjective, Part, PyTree, Site, Variables
from vijax.objectives.estimators.particles import (
    check_num,
    merge_mutable,
    model_batch,
    require_density,
)
from vijax.objectives.estimators.rao_blackwell import density_factors
from vijax.runtime.errors import GuideError


@dataclasses.dataclass(frozen=True)
class FreeBits(NonElboObjective):
    """Negative ELBO with free bits, `-E_q[log p(x | z)] + sum_k N_k max(nats, KL_k / N_k)`.

    `KL_k` is the divergence of an independent factor `q_k` of the guide from the prior of its
    sites, and `N_k` the number of rows of the plates that all of them are in. Every site of a
    mean-field or amortized guide is a factor, and every other part of a composite one. Divergences
    below the threshold are not penalized, which prevents posterior collapse: local latent variables
    of an autoencoder are not pulled to their prior before the decoder has learned to use them.
    Divergences are Monte Carlo averages over rows and particles, so that priors may depend on other
    latent sites; with few draws `nats` is a soft threshold, and divergences end somewhat below it.
    At `nats=0` this is `ELBO(num_particles, "plain")`. Source: Improved variational inference with
    inverse autoregressive flow, Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 2016.

    Args:
        nats: the threshold, per factor and row.
        num_particles: draws averaged per step.

    Raises:
        GuideError: on use, if the guide has no density, or if the model has discrete latent sites,
            sampled by the guide or marginalized, so that the log density is not a sum of terms.
    """

    nats: float = 0.5
    num_particles: int = 1

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        if not 0 <= self.nats < math.inf:
            raise ValueError(f"nats: expected a number from 0 up, got {self.nats!r}.")

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, _, batch, *_ = context
        guide = require_density(context.guide)
        if target.space.discrete.sites or target.marginalized.sizes:
            name = (*target.space.discrete.names, *target.marginalized.sizes)[0]
            raise GuideError(
                f"objective FreeBits: expected continuous sites, got {name!r}, which is discrete. "
                "Use ELBO or Tempered."
            )
        terms, term_info = target.terms, target.term_info(batch)
        part = Part(guide, variables.guide, target.space)

        def one(key: Array) -> tuple[Array, list[tuple[Array, Array]], dict[str, PyTree]]:
            """Log likelihood, `(rows, divergence per row)` by factor, and the new mutable state."""
            z = guide.draw(variables.guide, target.space, key, batch).z
            result = terms(z, model_batch(key, batch), variables.model, mutable)
            prior_of = {name: term_info[name].prior_of for name in result.values}
            totals = {name: jnp.sum(value) for name, value in result.values.items()}
            divergences = []
            for factor in density_factors(part, z, batch, result.values, term_info):
                names = {site.name for site in factor.sites}
                prior = [totals[name] for name, site in prior_of.items() if site in names]
                rows = jnp.asarray(_rows(factor.sites), float)
                divergences.append((rows, (factor.scaled - sum(prior, jnp.zeros(()))) / rows))
            likelihood = [totals[name] for name, site in prior_of.items() if site is None]
            return sum(likelihood, jnp.zeros(())), divergences, result.mutable

        keys = target.devices.shard_particles(jax.random.split(key, self.num_particles))
        likelihood, divergences, states = jax.vmap(one)(keys)
        loss = -jnp.mean(likelihood)
        for rows, divergence in divergences:
            loss += jnp.mean(rows) * jnp.maximum(self.nats, jnp.mean(divergence))
        return loss, jax.tree.map(merge_mutable, states)


def _rows(sites: tuple[Site, ...]) -> int:
    """Number of rows of the plates that all of the sites are in."""
    common = set.intersection(*({(p.name, p.size) for p in site.plates} for site in sites))
    return math.prod(size for _, size in common)
