"""The forward (inclusive) Kullback-Leibler divergence."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, NonElboObjective, PyTree, Variables
from vijax.objectives.estimators.particles import check_num, draw_particles, with_gradient_of


@dataclasses.dataclass(frozen=True)
class ForwardKL(NonElboObjective):
    """Forward KL divergence, `KL(p(z | x) || q)`, by importance sampling from the guide.

    Its Gaussian optimum has the posterior's mean and covariance, its mean-field optimum the
    posterior's marginal variances. With `v` the weights `p(x, z) / q(z)`, normalized over the
    particles, the gradient is `-sum(v dlog q)`, and that of `param` sites `-sum(v dlog p)`. The
    bias from normalization decreases with the number of particles; estimates are poor where a few
    particles have all the weight, so start from a good fit (`init=`). Needs a guide with a density,
    but no gradient of the model in its latent sites. Source: Reweighted wake-sleep, Bornschein,
    Bengio, 2015.

    Args:
        num_particles: draws per step, at least 2; importance weights are normalized over them.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    num_particles: int = 64

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        drawn = draw_particles("score", self.num_particles, variables, context)
        log_weights = stop_gradient(drawn.log_weights)
        weight = jax.nn.softmax(log_weights)
        log_evidence = jax.nn.logsumexp(log_weights) - jnp.log(self.num_particles)
        # 0 * log(0) = 0
        value = jnp.sum(jnp.where(weight > 0, weight * log_weights, 0.0)) - log_evidence
        log_p = drawn.log_p if variables.model else stop_gradient(drawn.log_p)
        joint = jnp.where(weight > 0, weight * (log_p + drawn.log_q), 0.0)
        return with_gradient_of(value, -jnp.sum(joint)), drawn.mutable
