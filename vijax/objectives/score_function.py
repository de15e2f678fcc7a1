"""The ELBO by the score-function (REINFORCE) estimator."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, Part, PyTree, Variables
from vijax.objectives.estimators.particles import (
    check_num,
    merge_mutable,
    model_batch,
    require_density,
    with_gradient_of,
)
from vijax.objectives.estimators.rao_blackwell import density_factors, leave_one_out


@dataclasses.dataclass(frozen=True)
class ScoreELBO:
    """Negative ELBO by the score-function (REINFORCE) estimator, without gradients of the model.

    `-dE_q[f] = -sum_k E_q[(f_k - b_k) dlog q_k]` over the independent factors `q_k` of the guide,
    with `f_k = log p_k - log q_k` and `log p_k` the terms of `log p` in the Markov blanket of
    factor `k`; all other terms would only add variance (Rao-Blackwellization). Factors are the
    coordinates of a mean-field guide, the rows of an amortized one, and the parts of a composite
    one. The baseline `b_k` of a particle is the mean of `f_k` over all others, which leaves the
    gradient unbiased.

    The model is only evaluated, so that its likelihood may be discontinuous or call an external
    program (`jax.pure_callback`); only its `param` sites need gradients. The variance is much
    larger than that of `ELBO` and grows with the dimension of the factors: use many particles.
    Sources: Black box variational inference, Ranganath, Gerrish, Blei, 2014; Buy 4 REINFORCE
    samples, get a baseline for free!, Kool, van Hoof, Welling, 2019.

    Args:
        num_particles: draws averaged per step, at least 2.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    num_particles: int = 32

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, _, batch, *_ = context
        guide = require_density(context.guide)
        terms, term_info = target.terms, target.term_info(batch)
        part = Part(guide, variables.guide, target.space)

        def one(
            key: Array,
        ) -> tuple[tuple[Array, Array], list[Array], list[Array], dict[str, PyTree]]:
            z = stop_gradient(guide.draw(variables.guide, target.space, key, batch).z)
            result = terms(z, model_batch(key, batch), variables.model, mutable)
            factors = density_factors(part, z, batch, result.values, term_info)
            log_p = sum((jnp.sum(value) for value in result.values.values()), jnp.zeros(()))
            loss = sum((factor.scaled for factor in factors), jnp.zeros(())) - log_p
            log_qs, local_losses = [f.log_q for f in factors], [f.local_loss for f in factors]
            return (loss, log_p), log_qs, local_losses, result.mutable

        keys = target.devices.shard_particles(jax.random.split(key, self.num_particles))
        (loss, log_p), log_qs, local_losses, states = jax.vmap(one)(keys)
        surrogate = leave_one_out(log_qs, local_losses)
        if variables.model:
            surrogate -= jnp.mean(log_p)
        return with_gradient_of(jnp.mean(loss), surrogate), jax.tree.map(merge_mutable, states)
