"""The chi upper bound, as a loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import NonElboObjective, PyTree, LossContext, Variables
from vijax.objectives.estimators.particles import check_num, particles, with_gradient_of


@dataclasses.dataclass(frozen=True)
class CUBO(NonElboObjective):
    """Chi upper bound on the log evidence, `log(E_q[w^order]) / order`, `w = p(x, z) / q(z)`.

    Minimizing it minimizes the chi divergence from posterior to guide (chi-square for order 2),
    which punishes a guide that misses any of the posterior. With `v` the normalized `w^order` of
    the particles, the gradient is `(1 - order) / order sum(v dlog q)`. It is biased by the
    normalization, and the loss of a step too small on average, the less so the more particles. (The
    reparameterized gradient of such a step's loss is of no use: the narrower the guide, the smaller
    the largest weight that a few draws see, and it collapses.) Needs a guide with a density, and no
    gradient of the model in its latent sites. Source: Variational inference via chi upper bound
    minimization, Dieng, Tran, Ranganath, Paisley, Blei, 2017.

    Args:
        order: above 1.
        num_particles: draws that a step weighs against each other, at least 2.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    order: float = 2.0
    num_particles: int = 64

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)
        if not self.order > 1:
            raise ValueError(f"order: expected a number above 1, got {self.order}.")

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        drawn = draw_particles("score", self.num_particles, variables, setting)
        powered = self.order * stop_gradient(drawn.log_weights)
        share = jax.nn.softmax(powered)
        value = (jax.nn.logsumexp(powered) - jnp.log(self.num_particles)) / self.order
        log_p = drawn.log_p if variables.model else stop_gradient(drawn.log_p)
        # no share, no part: a weight of zero has a log of minus infinity
        joint = jnp.where(share > 0, share * (log_p + (1 / self.order - 1) * drawn.log_q), 0.0)
        return with_gradient_of(value, jnp.sum(joint)), drawn.mutable
