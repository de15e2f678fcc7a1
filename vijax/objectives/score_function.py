"""The ELBO without gradients of the model, as a loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import Part, PyTree, LossContext, Variables
from vijax.objectives.estimators.particles import (
    check_num,
    merge,
    model_batch,
    require_density,
    with_gradient_of,
)
from vijax.objectives.estimators.rao_blackwell import factors, leave_one_out


@dataclasses.dataclass(frozen=True)
class ScoreELBO:
    """Negative evidence lower bound for models that have no gradient in their latent sites.

    `-dE_q[f] = -sum_k E_q[(f_k - b_k) dlog q_k]`, the sum over independent parts `q_k` of the
    guide, with `f_k` the terms of `log p` that part `k` has a part in, less `log q_k`: all else in
    `log p` and `log q` would add nothing but noise (Rao-Blackwellization). Parts are the entries of
    the sites of a mean-field guide, rows of an amortized one, and the groups of a composed one. The
    baseline `b_k` of a particle is the mean of `f_k` over all others, which leaves the gradient
    unbiased.

    The model is only evaluated, so that its likelihood may have steps in it or be a call to another
    program (`jax.pure_callback`); its `param` sites still need a gradient of their own. Much
    noisier than `ELBO`, the more so the more dimensions a part has: take many particles. Sources:
    Black box variational inference, Ranganath, Gerrish, Blei, 2014; Buy 4 REINFORCE samples, get a
    baseline for free!, Kool, van Hoof, Welling, 2019.

    Args:
        num_particles: draws that a step averages, at least 2.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    num_particles: int = 32

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, _, batch, *_ = setting
        guide = require_density(setting.guide)
        terms, layout = target.terms, target.term_info(batch)
        part = Part(guide, variables.guide, target.space)

        def one(
            key: Array,
        ) -> tuple[tuple[Array, Array], list[Array], list[Array], dict[str, PyTree]]:
            z = stop_gradient(guide.draw(variables.guide, target.space, key, batch).z)
            found = terms(z, model_batch(key, batch), variables.model, mutable)
            parts = factors(part, z, batch, found.values, layout)
            log_p = sum((jnp.sum(value) for value in found.values.values()), jnp.zeros(()))
            loss = sum((own.scaled for own in parts), jnp.zeros(())) - log_p
            return (loss, log_p), [o.log_q for o in parts], [o.signal for o in parts], found.mutable

        keys = target.devices.shard_particles(jax.random.split(key, self.num_particles))
        (loss, log_p), log_qs, signals, states = jax.vmap(one)(keys)
        surrogate = leave_one_out(log_qs, signals)
        if variables.model:
            surrogate -= jnp.mean(log_p)
        return with_gradient_of(jnp.mean(loss), surrogate), jax.tree.map(merge, states)
