"""The chi upper bound, as a loss."""

from __future__ import annotations

import dataclasses

from jax import Array

from vijax._contracts import PyTree, Setting, Variables
from vijax.objectives.particles import check_num
from vijax.objectives.power import Estimator, check_estimator, power_bound


@dataclasses.dataclass(frozen=True)
class CUBO:
    """Chi upper bound on the log evidence, `log(E_q[w^order]) / order`, `w = p(x, z) / q(z)`.

    Minimising it minimises the chi divergence from posterior to guide (chi-square for order 2),
    which punishes a guide that misses any of the posterior. The mean is taken over the particles of
    one step inside of the logarithm, so that a single step's loss is too small on average, the less
    so the more particles. Source: Variational inference via chi upper bound minimization, Dieng,
    Tran, Ranganath, Paisley, Blei, 2017.

    Args:
        order: at least 1.
        num_particles: draws in each bound.
        estimator: `"dreg"`, doubly reparameterised gradients, for guides with a density, or
            `"plain"`, for any guide.

    Raises:
        GuideError: on use, if the guide lacks a density that the estimator needs.
    """

    order: float = 2.0
    num_particles: int = 32
    estimator: Estimator = "dreg"

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)
        check_estimator(self.estimator)
        if not self.order >= 1:
            raise ValueError(f"order: expected a number of at least 1, got {self.order}.")

    def __call__(self, variables: Variables, setting: Setting) -> tuple[Array, dict[str, PyTree]]:
        return power_bound(self.order, self.estimator, self.num_particles, variables, setting)
