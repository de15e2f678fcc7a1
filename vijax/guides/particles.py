"""Points that stand for a distribution."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, ParticleGuide, Position, Space
from vijax.guides.gaussian.normal import require_positive
from vijax.runtime.errors import GuideError, mismatch


class ParticlesParams(NamedTuple):
    """`points` `(num, dim)`, sites in the order of the space."""

    points: Array


@dataclasses.dataclass(frozen=True)
class Particles(ParticleGuide):
    """The empirical distribution of some points: a draw is one of them, at random.

    What `vijax.algorithms.SVGD` moves. Points have no density, so that there is no ELBO, and
    nothing to weight them by.

    Args:
        num: how many, at least 2.
        init_scale: standard deviation of every coordinate at the start.
    """

    num: int = 100
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        if self.num < 2:
            raise GuideError(mismatch("num", "at least 2 particles", repr(self.num)))

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> ParticlesParams:
        center = space.ravel(location)
        noise = jax.random.normal(key, (self.num, space.dim), center.dtype)
        return ParticlesParams(center + self.init_scale * noise)

    def points(self, params: ParticlesParams, space: Space) -> Array:
        return params.points

    def draw(self, params: ParticlesParams, space: Space, key: Array, batch: Batch) -> Draw:
        point = params.points[jax.random.randint(key, (), 0, self.num)]
        return Draw(space.unravel(point), jnp.zeros((), point.dtype))
