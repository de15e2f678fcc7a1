"""Renyi's bound, as a loss."""

from __future__ import annotations

import dataclasses

from jax import Array

from vijax.contracts import NonElboObjective, PyTree, LossContext, Variables
from vijax.objectives.estimators.particles import check_num
from vijax.objectives.estimators.power_mean import Estimator, check_estimator, power_bound


@dataclasses.dataclass(frozen=True)
class Renyi(NonElboObjective):
    """Negative variational Renyi bound, `-log(E_q[w^(1 - alpha)]) / (1 - alpha)`.

    `w = p(x, z) / q(z)`. The ELBO as `alpha` tends to 1 and the evidence at 0; for `alpha` above 0
    a lower bound on the log evidence. Below 1 the guide covers more of the posterior than under
    the ELBO, above 1 less. The mean is taken over `num_particles` draws inside of the logarithm
    (VR-IWAE), of which `alpha = 0` is the importance-weighted bound. Sources: Renyi divergence
    variational inference, Li, Turner, 2016; Alpha-divergence variational inference meets importance
    weighted auto-encoders, Daudel, Benton, Shi, Doucet, 2023.

    Args:
        alpha: order of the divergence, other than 1.
        num_particles: draws in each bound.
        estimator: `"dreg"`, doubly reparameterized gradients, for guides with a density, or
            `"plain"`, for any guide.

    Raises:
        GuideError: on use, if the guide lacks a density that the estimator needs.
    """

    alpha: float = 0.5
    num_particles: int = 8
    estimator: Estimator = "dreg"

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        check_estimator(self.estimator)
        if self.alpha == 1:
            raise ValueError("alpha: expected a number other than 1; the limit there is ELBO().")

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        bound, after = power_bound(
            1 - self.alpha, self.estimator, self.num_particles, variables, setting
        )
        return -bound, after
