"""The kernelized Stein discrepancy of particles, minimized in the SVGD direction."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, NonElboObjective, ParticleGuide, PyTree, Variables
from vijax.diagnostics.stein import RBF, Kernel, stein
from vijax.objectives.estimators.particles import merge_mutable, with_gradient_of
from vijax.runtime.errors import GuideError


@dataclasses.dataclass(frozen=True)
class Stein(NonElboObjective):
    """Squared kernelized Stein discrepancy of a guide's particles, minimized by SVGD.

    The gradient in a particle `x_i` is not that of the loss but
    `-1/n sum_j (k(x_j, x_i) s_j + d_{x_j} k(x_j, x_i))`, with `s` the scores: the steepest descent
    direction, in the kernel's RKHS, of the Kullback-Leibler divergence to the posterior, which
    decreases at the rate of the loss. The first term attracts particles to high density, the
    second is repulsive. `param` sites ascend the mean log density. Source: Stein variational
    gradient descent, Liu, Wang, 2016.

    Args:
        kernel: Gaussian by default, with the median heuristic for its bandwidth.

    Raises:
        GuideError: on use, if the guide is not a `ParticleGuide`.
    """

    kernel: Kernel = RBF()

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, guide, batch, *_ = context
        if not isinstance(guide, ParticleGuide):
            raise GuideError(
                f"objective {self!r}: expected a guide of particles, got {guide!r}. Use "
                "guide=vijax.guides.Particles(100)."
            )
        space = target.space
        points = guide.points(variables.guide, space)
        model_batch = batch._replace(key=jax.random.fold_in(key, 1))

        def log_density(point: Array, model: dict[str, PyTree]) -> tuple[Array, dict[str, PyTree]]:
            return target.evaluate(space.unravel(point), model_batch, model, mutable)

        score = jax.vmap(jax.grad(log_density, has_aux=True), (0, None))
        fixed = stop_gradient(variables.model)
        scores, states = score(target.devices.shard_particles(stop_gradient(points)), fixed)
        result = stein(stop_gradient(points), scores, self.kernel)
        surrogate = -jnp.vdot(result.direction, points)
        if variables.model:
            at = stop_gradient(points)
            log_p = jax.vmap(lambda point: log_density(point, variables.model)[0])(at)
            surrogate -= jnp.mean(log_p)
        loss = with_gradient_of(jnp.mean(result.pairs), surrogate)
        return loss, jax.tree.map(merge_mutable, states)
