"""The variational Renyi bound."""

from __future__ import annotations

import dataclasses

from jax import Array

from vijax.contracts import LossContext, NonElboObjective, PyTree, Variables
from vijax.objectives.estimators.particles import check_num
from vijax.objectives.estimators.power_mean import Estimator, check_estimator, power_bound


@dataclasses.dataclass(frozen=True)
class Renyi(NonElboObjective):
    """Negative variational Renyi bound, `-log(E_q[w^(1 - alpha)]) / (1 - alpha)`.

    `w = p(x, z) / q(z)`. It tends to the ELBO as `alpha` tends to 1 and is the log evidence at 0;
    for `alpha` above 0 it is a lower bound on the log evidence. Orders below 1 are more
    mass-covering than the ELBO, orders above 1 more mode-seeking. The mean over `num_particles`
    draws is inside the logarithm (VR-IWAE); `alpha = 0` is the importance-weighted bound. Sources:
    Renyi divergence variational inference, Li, Turner, 2016; Alpha-divergence variational inference
    meets importance weighted auto-encoders, Daudel, Benton, Shi, Doucet, 2023.

    Args:
        alpha: order of the divergence, other than 1.
        num_particles: draws per bound.
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

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        bound, after = power_bound(
            1 - self.alpha, self.estimator, self.num_particles, variables, context
        )
        return -bound, after
