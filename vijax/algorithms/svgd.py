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
    """Moves particles until they look like draws from the posterior, for models of any shape.

    Deterministic but for the start. It finds what a Gaussian cannot hold; with many dimensions the
    particles' variances come out too small, the more so the fewer particles there are, and modes
    that no particle is near are not found. Evaluates the model's gradient at all particles in each
    step, and all distances between them. See `vijax.objectives.Stein`. Source: Stein variational
    gradient descent, Liu, Wang, 2016.

    Args:
        num_particles: how many.
        kernel: `RBF` or `IMQ`, by default the former with the median heuristic.
        optimizer: of the particles.
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
