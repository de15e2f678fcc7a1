"""Stein variational gradient descent."""

from __future__ import annotations

import dataclasses

from vijax.algorithms.gradient import Adam, Gradient, Optimizer
from vijax.contracts import Guide
from vijax.diagnostics.stein import RBF, Kernel
from vijax.guides import Particles
from vijax.objectives import Stein


@dataclasses.dataclass(frozen=True)
class SVGD(Gradient):
    """Stein variational gradient descent: a set of particles that approximates the posterior.

    Deterministic given the initial particles, and not limited to a parametric family. In high
    dimension the particles' variances are too small, increasingly so with fewer particles, and
    modes that no particle starts near are missed. Each step evaluates the model's gradient at all
    particles, and all pairwise distances. See `vijax.objectives.Stein`. Source: Stein variational
    gradient descent, Liu, Wang, 2016.

    Args:
        num_particles: number of particles.
        kernel: `RBF` or `IMQ`, by default the former with the median heuristic.
        optimizer: optimizer of the particles.
    """

    objective: Stein = dataclasses.field(init=False, repr=False)
    optimizer: Optimizer = dataclasses.field(default=Adam(0.1), kw_only=True)
    num_particles: int = 100
    kernel: Kernel = RBF()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "objective", Stein(self.kernel))

    @property
    def default_guide(self) -> Guide:
        return Particles(self.num_particles)
