"""The evidence lower bound with some information that costs nothing, as a loss."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import NonElboObjective, Part, PyTree, LossContext, Site, Variables
from vijax.objectives.estimators.particles import check_num, merge, model_batch, require_density
from vijax.objectives.estimators.rao_blackwell import factors
from vijax.runtime.errors import GuideError


@dataclasses.dataclass(frozen=True)
class FreeBits(NonElboObjective):
    """Negative ELBO whose divergences from the prior count from some amount on.

    `-E_q[log p(x | z)] + sum_k N_k max(nats, KL_k / N_k)`, with `KL_k` the divergence of an
    independent block `q_k` of the guide from the prior of its sites, and `N_k` the rows of the
    plates that they are all in: every site of a mean-field or amortized guide is a block, and every
    other part of a composed one. A latent that says next to nothing about its row, as those of an
    autoencoder do at the start, is thus not pressed into its prior before the decoder has learned
    to use it (posterior collapse). Divergences are averages over rows and particles, by draws, so
    that priors may depend on other latents; where few draws are averaged `nats` is a soft limit,
    and blocks end somewhat below it. At `nats=0` this is `ELBO(num_particles, "plain")`. Source:
    Improved variational inference with inverse autoregressive flow, Kingma, Salimans, Jozefowicz,
    Chen, Sutskever, Welling, 2016.

    Args:
        nats: what is free, by block and row.
        num_particles: draws averaged per step.

    Raises:
        GuideError: on use, if the guide has no density, there are discrete sites among its draws,
            or sites are summed out, so that the log density does not fall into terms.
    """

    nats: float = 0.5
    num_particles: int = 1

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        if not 0 <= self.nats < math.inf:
            raise ValueError(f"nats: expected a number from 0 up, got {self.nats!r}.")

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, _, batch, *_ = setting
        guide = require_density(setting.guide)
        if target.space.discrete.sites or target.marginalized.sizes:
            name = (*target.space.discrete.names, *target.marginalized.sizes)[0]
            raise GuideError(
                f"objective FreeBits: expected a divergence from the prior for every site, but "
                f"{name!r} is discrete. Use ELBO or Tempered."
            )
        terms, layout = target.terms, target.term_info(batch)
        part = Part(guide, variables.guide, target.space)

        def one(key: Array) -> tuple[Array, list[tuple[Array, Array]], dict[str, PyTree]]:
            """The log likelihood, rows and divergence in each, and the model's new state."""
            z = guide.draw(variables.guide, target.space, key, batch).z
            found = terms(z, model_batch(key, batch), variables.model, mutable)
            owners = {name: layout[name].prior_of for name in found.values}
            totals = {name: jnp.sum(value) for name, value in found.values.items()}
            divergences = []
            for factor in factors(part, z, batch, found.values, layout):
                names = {site.name for site in factor.sites}
                prior = [totals[name] for name, owner in owners.items() if owner in names]
                rows = jnp.asarray(_rows(factor.sites), float)
                divergences.append((rows, (factor.scaled - sum(prior, jnp.zeros(()))) / rows))
            likelihood = [totals[name] for name, owner in owners.items() if owner is None]
            return sum(likelihood, jnp.zeros(())), divergences, found.mutable

        keys = target.devices.shard_particles(jax.random.split(key, self.num_particles))
        likelihood, divergences, states = jax.vmap(one)(keys)
        loss = -jnp.mean(likelihood)
        for rows, divergence in divergences:
            loss += jnp.mean(rows) * jnp.maximum(self.nats, jnp.mean(divergence))
        return loss, jax.tree.map(merge, states)


def _rows(sites: tuple[Site, ...]) -> int:
    """Rows of the plates that all of the sites are in."""
    common = set.intersection(*({(p.name, p.size) for p in site.plates} for site in sites))
    return math.prod(size for _, size in common)
