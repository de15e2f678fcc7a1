"""A particle from every part of a mixture: no choice between them, hence nothing it could blur."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import PyTree, LossContext, MixtureGuide, Variables
from vijax.objectives.estimators.particles import merge


def stratified(
    variables: Variables, guide: MixtureGuide, setting: LossContext
) -> tuple[Array, dict[str, PyTree]]:
    """`sum_k w_k (log q(z_k) - log p(z_k))` for one draw `z_k` of each part, and the new state.

    Its gradient in the weights is exact given the draws, and that in the parts passes through
    their draws. In `log q` the parameters are held fixed from phase 1 on, as in sticking the
    landing. Source: Sticking the Landing, Roeder, Wu, Duvenaud, 2017, on mixtures.
    """
    mutable, key, target, _, batch, phase, *_ = setting
    log_weights, draws = guide.component_draws(variables.guide, target.space, key, batch)
    z = jax.tree.map(lambda *parts: jnp.stack(parts), *[draw.z for draw in draws])

    def one(k: Array, z: PyTree) -> tuple[Array, Array, dict[str, PyTree]]:
        model_batch = batch._replace(key=jax.random.fold_in(key, k + 1))
        log_p, after = target.evaluate(z, model_batch, variables.model, mutable)
        held = guide.log_prob(stop_gradient(variables.guide), target.space, z, batch)
        return log_p, held, after

    log_p, held, states = jax.vmap(one)(jnp.arange(len(draws)), z)
    log_q = jnp.where(phase > 0, held, jnp.stack([draw.log_q for draw in draws]))
    return jnp.sum(jnp.exp(log_weights) * (log_q - log_p)), jax.tree.map(merge, states)
