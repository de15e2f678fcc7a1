"""The particle guide: an empirical distribution."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, ParticleGuide, Position, Space
from vijax.guides.checks import require_positive
from vijax.runtime.errors import GuideError, mismatch


class ParticlesParams(NamedTuple):
    """`points` `(num, dim)`, sites in the order of the space."""

    points: Array


@dataclasses.dataclass(frozen=True)
class Particles(ParticleGuide):
    """Empirical distribution of `num` points: a draw is one of them, chosen uniformly.

    Fitted by `vijax.algorithms.SVGD` or `vijax.algorithms.SGHMC`. Points have no density, so
    there is neither an ELBO nor importance weights.

    Args:
        num: number of points, at least 2.
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
