"""Flows of other libraries as guides, from two or three functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from jax import Array

from vijax.contracts import Batch, DensityGuide, Draw, Guide, Position, PyTree, Space

InitParams = Callable[[Array, int], PyTree]
SampleAndLogProb = Callable[[PyTree, Array], tuple[Array, Array]]
LogProb = Callable[[PyTree, Array], Array]


@dataclasses.dataclass(frozen=True)
class ExternalFlow(Guide):
    """A distribution on `R^dim` given by functions, over the model's sites in order.

    Constructed by `from_functions`. Guides with equal functions are equal; define the functions
    once, not for every fit.

    Args:
        init_params: `(key, dim)` to parameters, a pytree of floating-point arrays.
        sample_and_log_prob: `(params, key)` to a draw `(dim,)` and its log density,
            differentiable in `params`.
    """

    num_particles: ClassVar[int] = 64
    init_params: InitParams
    sample_and_log_prob: SampleAndLogProb

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        return self.init_params(key, space.dim)

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        z, log_q = self.sample_and_log_prob(params, key)
        return Draw(space.unravel(z), log_q)


@dataclasses.dataclass(frozen=True)
class ExternalDensityFlow(ExternalFlow, DensityGuide):
    """An `ExternalFlow` whose density can be evaluated at any point.

    Args:
        density: `(params, z)` to the log density at `z` `(dim,)`.
    """

    density: LogProb

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        return self.density(params, space.ravel(z))


def from_functions(
    init_params: InitParams,
    sample_and_log_prob: SampleAndLogProb,
    log_prob: LogProb | None = None,
) -> ExternalFlow:
    """A guide from a flow of another library.

    It is fitted by gradient steps from its initial parameters; the starting point of the fit is
    not used, and there is no Gaussian base. With flowjax, for instance::

        def init_params(key, dim):
            return eqx.partition(make_flow(key, dim), eqx.is_inexact_array)[0]

        def sample_and_log_prob(params, key):
            return eqx.combine(params, static).sample_and_log_prob(key)

    where `static` is the other half of the partition of a flow of the same dimension.

    Args:
        init_params: `(key, dim)` to parameters, a pytree of floating-point arrays.
        sample_and_log_prob: `(params, key)` to a draw `(dim,)` and its log density.
        log_prob: `(params, z)` to the log density at `z` `(dim,)`. Without it, gradients cannot
            stick the landing and densities are available at draws only.
    """
    if log_prob is None:
        return ExternalFlow(init_params, sample_and_log_prob)
    return ExternalDensityFlow(init_params, sample_and_log_prob, log_prob)
