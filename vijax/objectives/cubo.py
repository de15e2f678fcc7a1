"""The chi upper bound (CUBO)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, NonElboObjective, PyTree, Variables
from vijax.objectives.estimators.particles import check_num, draw_particles, with_gradient_of


@dataclasses.dataclass(frozen=True)
class CUBO(NonElboObjective):
    """Chi upper bound on the log evidence, `log(E_q[w^order]) / order`, `w = p(x, z) / q(z)`.

    Minimizing it minimizes the chi divergence from posterior to guide (chi-square for order 2), a
    mass-covering divergence. With `v` the normalized `w^order` of the particles, the gradient is
    `(1 - order) / order sum(v dlog q)`. Normalization biases it, and the loss is biased downward;
    both biases decrease with the number of particles. (The reparameterized gradient of the
    estimated loss is unsuitable: the guide collapses, because a narrow one has a smaller largest
    weight among a few draws.) Needs a guide with a density, but no gradient of the model in its
    latent sites. Source: Variational inference via chi upper bound minimization, Dieng, Tran,
    Ranganath, Paisley, Blei, 2017.

    Args:
        order: above 1.
        num_particles: draws per step, at least 2; importance weights are normalized over them.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    order: float = 2.0
    num_particles: int = 64

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)
        if not self.order > 1:
            raise ValueError(f"order: expected a number above 1, got {self.order}.")

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        drawn = draw_particles("score", self.num_particles, variables, context)
        powered = self.order * stop_gradient(drawn.log_weights)
        weight = jax.nn.softmax(powered)
        value = (jax.nn.logsumexp(powered) - jnp.log(self.num_particles)) / self.order
        log_p = drawn.log_p if variables.model else stop_gradient(drawn.log_p)
        # 0 * log(0) = 0
        joint = jnp.where(weight > 0, weight * (log_p + (1 / self.order - 1) * drawn.log_q), 0.0)
        return with_gradient_of(value, jnp.sum(joint)), drawn.mutable
