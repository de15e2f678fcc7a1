"""The divergence from posterior to guide, as a loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import NonElboObjective, PyTree, LossContext, Variables
from vijax.objectives.estimators.particles import check_num, particles, with_gradient_of


@dataclasses.dataclass(frozen=True)
class ForwardKL(NonElboObjective):
    """`KL(p(z | x) || q)`, by importance sampling with the guide itself as proposal.

    The optimum of a Gaussian has the posterior's own means and covariance, that of a mean-field
    guide its own variances. With `v` the weights `p(x, z) / q(z)`, normalized over the particles,
    the gradient is `-sum(v dlog q)`; parameters of the model follow `-sum(v dlog p)`. Both are
    biased by the normalization, the less so the more particles, and of little use where a few
    particles have all the weight: start from a good fit (`init=`). Needs a guide with a density,
    and no gradient of the model in its latent sites. Source: Reweighted wake-sleep, Bornschein,
    Bengio, 2015.

    Args:
        num_particles: draws that a step weighs against each other, at least 2.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    num_particles: int = 64

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        drawn = draw_particles("score", self.num_particles, variables, setting)
        log_weights = stop_gradient(drawn.log_weights)
        share = jax.nn.softmax(log_weights)
        log_evidence = jax.nn.logsumexp(log_weights) - jnp.log(self.num_particles)
        # no share, no part: a weight of zero has a log of minus infinity
        value = jnp.sum(jnp.where(share > 0, share * log_weights, 0.0)) - log_evidence
        log_p = drawn.log_p if variables.model else stop_gradient(drawn.log_p)
        joint = jnp.where(share > 0, share * (log_p + drawn.log_q), 0.0)
        return with_gradient_of(value, -jnp.sum(joint)), drawn.mutable
