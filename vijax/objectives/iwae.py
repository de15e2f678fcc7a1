"""The importance-weighted bound (IWAE)."""

from __future__ import annotations

import dataclasses

from jax import Array

from vijax.contracts import LossContext, NonElboObjective, PyTree, Variables
from vijax.objectives.estimators.particles import check_num
from vijax.objectives.estimators.power_mean import Estimator, check_estimator, power_bound


@dataclasses.dataclass(frozen=True)
class IWAE(NonElboObjective):
    """Negative importance-weighted bound, `-E[log mean_k w_k]` with `w = p(x, z) / q(z)`.

    A lower bound on the log evidence that increases with the number of particles, from the ELBO
    at one toward the log evidence. Its optimum is a good importance-sampling proposal rather than
    an approximation of the posterior: weight the draws (`posterior.importance`). Source:
    Importance weighted autoencoders, Burda, Grosse, Salakhutdinov, 2016.

    Args:
        num_particles: draws per bound.
        estimator: `"dreg"`, doubly reparameterized gradients, for guides with a density, see
            `vijax.objectives.estimators.power_mean.power_bound`; or `"plain"`, for any guide.

    Raises:
        GuideError: on use, if the guide lacks a density that the estimator needs.
    """

    num_particles: int = 8
    estimator: Estimator = "dreg"

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        check_estimator(self.estimator)

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        bound, after = power_bound(1.0, self.estimator, self.num_particles, variables, context)
        return -bound, after
