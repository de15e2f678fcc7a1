"""The kernelized Stein discrepancy of particles, with the direction of SVGD as its gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import NonElboObjective, ParticleGuide, PyTree, LossContext, Variables
from vijax.diagnostics.stein import RBF, Kernel, stein
from vijax.objectives.estimators.particles import merge, with_gradient_of
from vijax.runtime.errors import GuideError


@dataclasses.dataclass(frozen=True)
class Stein(NonElboObjective):
    """Squared kernelized Stein discrepancy of a guide's particles, going down by SVGD.

    The gradient in a particle `x_i` is not the loss's own but
    `-1/n sum_j (k(x_j, x_i) s_j + d_{x_j} k(x_j, x_i))`, with `s` the scores: the direction in
    which, of all in the kernel's space, the Kullback-Leibler divergence to the posterior falls
    fastest, at a rate that is the loss. Particles drive to where the density is high and keep each
    other apart. `param` sites follow the mean log density. Source: Stein variational gradient
    descent, Liu, Wang, 2016.

    Args:
        kernel: by default Gaussian, its width from the median distance.

    Raises:
        GuideError: on use, if the guide is none of particles.
    """

    kernel: Kernel = RBF()

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        mutable, key, target, guide, batch, *_ = setting
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

        by_point = jax.vmap(jax.grad(log_density, has_aux=True), (0, None))
        fixed = stop_gradient(variables.model)
        scores, states = by_point(target.devices.shard_particles(stop_gradient(points)), fixed)
        found = stein(stop_gradient(points), scores, self.kernel)
        surrogate = -jnp.vdot(found.direction, points)
        if variables.model:
            at = stop_gradient(points)
            log_p = jax.vmap(lambda point: log_density(point, variables.model)[0])(at)
            surrogate -= jnp.mean(log_p)
        loss = with_gradient_of(jnp.mean(found.pairs), surrogate)
        return loss, jax.tree.map(merge, states)
