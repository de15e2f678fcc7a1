"""The ELBO without gradients of the model, as a loss."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax._contracts import PyTree, Setting, Variables
from vijax.objectives.particles import check_num, particles, with_gradient_of


@dataclasses.dataclass(frozen=True)
class ScoreELBO:
    """Negative evidence lower bound for models that have no gradient in their latent sites.

    `-dE_q[f] = -E_q[(f - b) dlog q]` with `f = log p - log q`. The baseline `b` of a particle is
    the mean of `f` over all others, which leaves the gradient unbiased. The model is only
    evaluated, so that its likelihood may have steps in it or be a call to another program
    (`jax.pure_callback`); its `param` sites still need a gradient of their own. Much noisier than
    `ELBO`, the more so the more dimensions: take many particles. Sources: Black box variational
    inference, Ranganath, Gerrish, Blei, 2014; Buy 4 REINFORCE samples, get a baseline for free!,
    Kool, van Hoof, Welling, 2019.

    Args:
        num_particles: draws that a step averages, at least 2.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    num_particles: int = 32

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)

    def __call__(self, variables: Variables, setting: Setting) -> tuple[Array, dict[str, PyTree]]:
        drawn = particles("score", self.num_particles, variables, setting)
        f = stop_gradient(drawn.log_weights)
        # f_i less the mean of the others is the deviation from the mean of all, stretched
        advantage = (f - jnp.mean(f)) * (self.num_particles / (self.num_particles - 1))
        log_p = drawn.log_p if variables.model else stop_gradient(drawn.log_p)
        return with_gradient_of(
            -jnp.mean(f), -jnp.mean(advantage * drawn.log_q + log_p)
        ), drawn.mutable
