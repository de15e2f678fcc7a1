"""Stratified sampling of mixtures: a draw from every component, weighted by its probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, MixtureGuide, PyTree, Variables
from vijax.objectives.estimators.particles import merge_mutable


def stratified_elbo(
    variables: Variables, guide: MixtureGuide, context: LossContext
) -> tuple[Array, dict[str, PyTree]]:
    """Negative ELBO `sum_k w_k (log q(z_k) - log p(z_k))`, `z_k ~ q_k`, and the mutable state.

    The gradient in the weights is exact given the draws, that in the components is pathwise. From
    phase 1 on the parameters are fixed in `log q`, as in sticking the landing. Source: Sticking
    the Landing, Roeder, Wu, Duvenaud, 2017, on mixtures.
    """
    mutable, key, target, _, batch, phase, *_ = context
    log_weights, draws = guide.component_draws(variables.guide, target.space, key, batch)
    z = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[draw.z for draw in draws])

    def one(k: Array, z: PyTree) -> tuple[Array, Array, dict[str, PyTree]]:
        model_batch = batch._replace(key=jax.random.fold_in(key, k + 1))
        log_p, after = target.evaluate(z, model_batch, variables.model, mutable)
        stl = guide.log_prob(stop_gradient(variables.guide), target.space, z, batch)
        return log_p, stl, after

    log_p, stl, states = jax.vmap(one)(jnp.arange(len(draws)), z)
    log_q = jnp.where(phase > 0, stl, jnp.stack([draw.log_q for draw in draws]))
    return jnp.sum(jnp.exp(log_weights) * (log_q - log_p)), jax.tree.map(merge_mutable, states)
