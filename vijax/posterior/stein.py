"""The kernelized Stein discrepancy of posterior draws."""

from __future__ import annotations

import numpy as np
from jax import Array

from vijax.contracts import ParticleGuide
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance, stein
from vijax.diagnostics.stein_discrepancy import Discrepancy, discrepancy
from vijax.posterior.requirements import all_data, require_log_density
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.errors import ModelError


def stein_discrepancy(
    result: FitResult, key: Array, num_draws: int, kernel: stein.Kernel | None
) -> Discrepancy:
    """See `Posterior.stein_discrepancy`."""
    require_log_density(result, "stein_discrepancy")
    target, data = result.target, all_data(result, "stein_discrepancy")
    if not target.differentiable:
        raise ModelError(
            "stein_discrepancy: expected a log density with gradients in all sites, got discrete "
            "sites in the guide, or a likelihood without gradients."
        )
    if isinstance(result.guide, ParticleGuide):
        points = np.asarray(result.guide.points(result.params, target.space), np.float64)
    else:
        points = importance.flatten(target.space, unconstrained(result, key, num_draws))
    scores = Kernel(target, data, result.variables.model, result.mutable)(points)[1]
    return discrepancy(points, scores, kernel)
