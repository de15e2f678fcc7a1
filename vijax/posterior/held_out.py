"""Checks the predictions of a fit against rows that were held out of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax import Array

from vijax.diagnostics.predictions import Calibration, Predictions
from vijax.model import Call
from vijax.posterior import prediction, scoring
from vijax.posterior.result import FitResult
from vijax.runtime.deadline import keep_answer, time_is_up
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng
from vijax.runtime.progress import stage
from vijax.runtime.stopwatch import spent_on

_NUM_DRAWS = 400
_KEY = 0x801E  # of draws
_LEVELS = (0.5, 0.9)  # of central intervals
_RESAMPLES = 500
_NORMAL = 1.96


def with_predictions(result: FitResult, rng_key: RngKey) -> FitResult:
    """The result, its status by the predictions of the held-out rows, if there are any.

    Args:
        result: of a fit.
        rng_key: of the fit.
    """
    if result.held_out is None or time_is_up():
        return result
    keep_answer(lambda: result)
    with stage("held-out rows"), spent_on("check"):
        found = check_predictions(
            result, fold_in(as_key(rng_key), _KEY), result.arguments.complete(*result.held_out)
        )
    diagnostics = result.assessment.diagnostics._replace(predictions=found)
    assessment = result.assessment._replace(diagnostics=diagnostics)
    return dataclasses.replace(result, assessment=assessment)


def check_predictions(result: FitResult, key: Array, held_out: Call) -> Predictions:
    """The predictions of held-out rows, see `vijax.diagnostics.predictions.Predictions`."""
    state = (*held_out, _NUM_DRAWS, None, "holdout")
    found = scoring.outcomes(result, key, *state)
    log_score = scoring.mean(found.log_density)
    at_mean = found.log_density if found.at_mean is None else found.at_mean
    gain = scoring.mean(found.log_density - at_mean)
    calibration = calibration_of(found, host_rng(fold_in(key, 2)))
    restarts = _restarts(result, key, held_out, found.log_density)
    return Predictions(len(found.y), *log_score, *gain, calibration, restarts)


def calibration_of(found: scoring.Outcomes, rng: np.random.Generator) -> tuple[Calibration, ...]:
    """Coverage of central intervals, or the calibration error of classes."""
    if found.probs is None:
        draws = np.asarray(found.draws, float)
        pit = scoring.probability_integral_transform(found.y.astype(float), draws, rng)
        return tuple(_coverage(pit, level) for level in _LEVELS)
    error = scoring.expected_calibration_error(found.y.astype(int), found.probs)
    cumulative = found.probs.cumsum(axis=1)
    drawn = rng.uniform(size=(_RESAMPLES, len(cumulative), 1))
    simulated = [
        scoring.expected_calibration_error(
            (u * cumulative[:, -1:] > cumulative).sum(1), found.probs
        )
        for u in drawn
    ]
    return (Calibration("calibration error", error, 0.0, float(np.quantile(simulated, 0.95))),)


def _coverage(pit: np.ndarray, level: float) -> Calibration:
    error = _NORMAL * (level * (1 - level) / len(pit)) ** 0.5
    inside = float(np.mean(np.abs(pit - 0.5) <= level / 2))
    return Calibration(f"coverage of {level:.0%}", inside, level - error, min(level + error, 1.0))


def _restarts(
    result: FitResult, key: Array, held_out: Call, log_density: np.ndarray
) -> tuple[tuple[float, float], ...]:
    """Differences of the log scores of the other restarts, with standard errors."""
    if result.engine is None or result.run is None or len(result.run.phases) == 1:
        return ()
    scores: list[Any] = []
    engine, run, steps = result.engine, result.run, result.engine.problem
    if steps.final is not None:  # point estimates are compared, whose curvature is not computed
        batch = result.batch._replace(linearized={})
        result = dataclasses.replace(result, guide=steps.guide, batch=batch)
    for variables, mutable, _ in engine.restarts(run):
        other = dataclasses.replace(result, variables=variables, mutable=mutable)
        (density,) = prediction.log_predictive_density(
            other, fold_in(key, 0), *held_out, _NUM_DRAWS
        ).values()
        scores.append(density.ravel())
    mine = int(np.argmin([np.abs(one - log_density).mean() for one in scores]))
    rest = scores[:mine] + scores[mine + 1 :]
    log_density = scores[mine] if steps.final is not None else log_density
    return tuple(scoring.mean(one - log_density) for one in rest)
