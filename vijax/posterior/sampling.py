"""Posterior draws: of the guide, importance resampled, or final states of short chains."""

from __future__ import annotations

import numpy as np
from jax import Array

from vijax.contracts import DensityGuide
from vijax.diagnostics import importance
from vijax.diagnostics.importance import Draws, Importance
from vijax.engine.common_draws import supports_full_data
from vijax.posterior import draws
from vijax.posterior.relabeling import relabeled
from vijax.posterior.requirements import (
    all_data,
    require_all_rows,
    require_density,
    require_guide_data,
    require_latents,
    require_log_density,
)
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import as_key, fold_in
from vijax.runtime.memory import check_host_memory

_MEDIAN_DRAWS = 500


def unconstrained(
    result: FitResult, key: Array, num_draws: int, corrected: bool | None = None
) -> Arrays:
    """Draws in unconstrained space, by site; `corrected` as in `Posterior.sample`."""
    check_count("num_draws", num_draws)
    require_latents(result)
    check_host_memory(num_draws * (result.target.space.dim + 1) * 4.0)  # and the index of the draw
    return relabeled(result, _as_fitted(result, key, num_draws, corrected))


def _as_fitted(result: FitResult, key: Array, num_draws: int, corrected: bool | None) -> Arrays:
    """`unconstrained` draws as they are, with the labels that the guide or the chains gave them."""
    if corrected or (corrected is None and result.corrects):
        if result.assessment.chain_states is not None:
            return draws.choose(result.assessment.chain_states, key, num_draws)
        proposed, found = _proposals_as_fitted(result, key, draws.pool_size(num_draws), False)
        return draws.resample(proposed.z, found.log_weights, key, num_draws)
    require_guide_data(result, "draws of every row")
    return draws.from_guide(result, key, num_draws)


def constrained(result: FitResult, z: Arrays, key: Array | None = None) -> Arrays:
    """Constrained values of draws; with a `key`, marginalized discrete sites are drawn, too."""
    z = z if key is None else draws.with_discrete(result, z, key)
    return draws.constrain(result, z, result.unknown)


def sample(result: FitResult, key: Array, num_draws: int, corrected: bool | None) -> Arrays:
    """See `Posterior.sample`."""
    return constrained(result, unconstrained(result, key, num_draws, corrected), fold_in(key, 2))


def proposals(
    result: FitResult, key: Array, num_draws: int, fresh: bool = False
) -> tuple[Draws, Importance]:
    """Draws from the guide with both log densities, and their importance weights.

    Without all data in memory these are the draws of the assessment, whatever their number,
    unless `fresh` and the data can be read.
    """
    proposed, found = _proposals_as_fitted(result, key, num_draws, fresh)
    return proposed._replace(z=relabeled(result, proposed.z)), found


def _proposals_as_fitted(
    result: FitResult, key: Array, num_draws: int, fresh: bool
) -> tuple[Draws, Importance]:
    """`proposals` as they are, with the labels that the guide gave them."""
    require_log_density(result, "importance weights")
    assessment = result.assessment
    stored = result.missing and not (fresh and result.data is not None)
    if stored and assessment.importance is not None:
        return assessment.draws, assessment.importance
    data = all_data(result, "importance weights")
    if assessment.importance is None and not (
        supports_full_data(result.target) and isinstance(result.guide, DensityGuide)
    ):
        require_density(result, "importance")
        if not (result.target.subsampled or result.arguments.sources):
            raise GuideError(
                "importance: expected draws that vary and have a finite density, got a fit with "
                f"status {result.status!r}. Its report() says why."
            )
        raise GuideError(
            "importance: expected a full-batch fit, got one on minibatches. Refit without "
            "subsample_size for importance weights."
        )
    state = (result.target, result.guide, result.variables, result.mutable)
    proposed = importance.draw(*state, key, data, num_draws)
    return proposed, importance.importance(proposed.log_weights)


def median(result: FitResult) -> Arrays:
    """See `Posterior.median`."""
    z = unconstrained(result, as_key(0), _MEDIAN_DRAWS, corrected=False)
    medians = {  # those of indices of values are indices, too
        name: np.median(value, axis=0, keepdims=True).astype(value.dtype)
        for name, value in z.items()
    }
    values = constrained(result, medians)
    return {name: value[0] for name, value in values.items() if name in result.target.space.names}


def log_prob(result: FitResult, values: Arrays) -> np.ndarray:
    """See `Posterior.log_prob`."""
    guide = require_density(result, "log_prob")
    if result.relabeling:
        raise GuideError(
            "log_prob: expected components as the guide has them, got relabeled ones, whose "
            "density is a sum over all their orders. Use the posterior before relabel()."
        )
    require_all_rows(result, "log_prob")
    arrays, stacked = draws.stack_values(result.target, values)
    out = draws.log_prob(result, guide, arrays)
    return out if stacked else out[0]
