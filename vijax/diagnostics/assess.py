"""Assesses a finished fit: draws once, then ELBO, importance weights, shifts and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from vijax._contracts import Batch, Guide, PyTree, Target, Variables
from vijax.diagnostics import weights
from vijax.diagnostics.verdict import Shift, Verdict, judge, shift
from vijax.diagnostics.weights import Draws, Importance

_NUM_DRAWS = 4000
_MIN_DRAWS = 200
_MAX_ELEMENTS = 2**33  # draws times data elements that an assessment may cost


class Assessment(NamedTuple):
    """The evidence behind a posterior's status.

    Attributes:
        draws: draws from the guide with their log densities.
        elbo: fresh estimate of the evidence lower bound in nats.
        elbo_se: its standard error.
        importance: `None` where importance sampling does not apply.
        shift: what the correction changes, `None` likewise.
        verdict: all of it combined.
    """

    draws: Draws
    elbo: float
    elbo_se: float
    importance: Importance | None
    shift: Shift | None
    verdict: Verdict


def num_assessment_draws(batch: Batch, dim: int) -> int:
    """4,000 draws, fewer where the data are so large that they would take long."""
    affordable = _MAX_ELEMENTS // weights.num_elements(batch, dim)
    return max(_MIN_DRAWS, min(_NUM_DRAWS, affordable))


def assess(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
    converged: bool,
    troubles: Sequence[object],
) -> Assessment:
    """Assesses a full-batch fit."""
    num_draws = num_assessment_draws(batch, target.space.dim)
    draws = weights.draw(target, guide, variables, mutable, key, batch, num_draws)
    elbo, elbo_se = weights.elbo(draws.log_weights)
    importance = moved = None
    flat = weights.flatten(target.space, draws.z)
    if np.all(np.ptp(flat, axis=0) > 0):  # a point mass, in whatever coordinate, has no density
        importance = weights.importance(draws.log_weights)
        moved = shift(flat, importance.log_weights)
    finite_share = float(np.mean(np.isfinite(draws.log_weights)))
    verdict = judge(importance, moved, converged, troubles, num_draws, finite_share)
    return Assessment(draws, elbo, elbo_se, importance, moved, verdict)


def assess_scores(
    log_weights: np.ndarray, converged: bool, troubles: Sequence[object]
) -> Assessment:
    """Assesses a minibatch fit, where only the ELBO can be estimated without bias."""
    elbo, elbo_se = weights.elbo(log_weights)
    verdict = judge(None, None, converged, troubles, log_weights.size)
    nothing = Draws({}, np.zeros(0), np.zeros(0))
    return Assessment(nothing, elbo, elbo_se, None, None, verdict)
