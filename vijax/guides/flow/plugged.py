"""Another library's flow as a guide: three functions are all it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from jax import Array

from vijax.contracts import Batch, DensityGuide, Draw, Guide, Position, PyTree, Space

Start = Callable[[Array, int], PyTree]
SampleAndLogProb = Callable[[PyTree, Array], tuple[Array, Array]]
LogProb = Callable[[PyTree, Array], Array]


@dataclasses.dataclass(frozen=True)
class Plugged(Guide):
    """A distribution on `R^dim` from elsewhere, laid over the model's sites in order.

    Made by `plug`. Equal functions make equal guides, so define them once, not at every fit.

    Args:
        start: `(key, dim)` to parameters, a pytree of floating-point arrays.
        sample_and_log_prob: `(params, key)` to a draw `(dim,)` and its log density,
            differentiable in `params`.
    """

    num_particles: ClassVar[int] = 64
    start: Start
    sample_and_log_prob: SampleAndLogProb

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        return self.start(key, space.dim)

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        z, log_q = self.sample_and_log_prob(params, key)
        return Draw(space.unravel(z), log_q)


@dataclasses.dataclass(frozen=True)
class PluggedDensity(Plugged, DensityGuide):
    """One whose density is known everywhere.

    Args:
        density: `(params, z)` to the log density at `z` `(dim,)`.
    """

    density: LogProb

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        return self.density(params, space.ravel(z))


def plug(
    start: Start, sample_and_log_prob: SampleAndLogProb, log_prob: LogProb | None = None
) -> Plugged:
    """A guide from a flow of another library.

    It is fitted by gradient steps from its own start values; `location` and base are its own
    business. With flowjax, for instance::

        def start(key, dim):
            return eqx.partition(make_flow(key, dim), eqx.is_inexact_array)[0]

        def sample_and_log_prob(params, key):
            return eqx.combine(params, static).sample_and_log_prob(key)

    where `static` is the other half of the partition of a flow of the same dimension.

    Args:
        start: `(key, dim)` to parameters, a pytree of floating-point arrays.
        sample_and_log_prob: `(params, key)` to a draw `(dim,)` and its log density.
        log_prob: `(params, z)` to the log density at `z` `(dim,)`; without it there is no
            sticking the landing, and no density away from the draws.
    """
    if log_prob is None:
        return Plugged(start, sample_and_log_prob)
    return PluggedDensity(start, sample_and_log_prob, log_prob)
