"""The result of one fit among many: without its data and draws, which are made again on demand."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vijax.contracts import DensityGuide
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import Assessment, num_assessment_draws
from vijax.diagnostics.importance import Draws
from vijax.model import Call, split, unwrap
from vijax.posterior.result import FitResult
from vijax.runtime.keys import fold_in, host_rng

_MAX_STATES = 1000  # states of chains that are kept of each fit


def compact(result: FitResult) -> FitResult:
    """The result without data and draws, with host arrays and at most 1,000 states of chains."""
    variables, mutable, centering = jax.device_get(
        (result.variables, result.mutable, result.batch.centering)
    )
    return dataclasses.replace(
        result,
        batch=result.batch._replace(data={}, centering=centering),
        assessment=compact_assessment(result.assessment),
        variables=variables,
        mutable=mutable,
        solver_losses=(),
    )


def compact_assessment(assessment: Assessment, status: str | None = None) -> Assessment:
    """The assessment without draws, unless these are what corrects the guide."""
    states = assessment.chain_states
    if states is not None:  # they are in random order
        states = {name: np.array(value[:_MAX_STATES]) for name, value in states.items()}
        return _without_draws(assessment._replace(chain_states=states))
    if not assessment.draws.z or (status or assessment.diagnosis.status) == "corrected":
        return assessment
    return _without_draws(assessment)


def with_data(found: FitResult, call: Call) -> FitResult:
    """A compact result with its data.

    Args:
        found: from `compact`.
        call: the arguments of the model.
    """
    if found.batch.data:  # loaded without the data
        return found
    model, args, kwargs = unwrap(found.model, *call)
    by_content = found.arguments.by_content
    _, data = split(model, args, kwargs, False, by_content)
    return dataclasses.replace(found, batch=found.batch._replace(data=data))


def complete(found: FitResult, call: Call, key: Any) -> FitResult:
    """A compact result with its data and fresh draws of its guide.

    Args:
        found: from `compact`.
        call: the arguments of the model.
        key: the fit's.
    """
    result = with_data(found, call)
    if result.missing:
        return dataclasses.replace(result, assessment=_of_guide(result, key))
    batch = result.batch._replace(centering=jax.device_put(result.batch.centering))
    variables, mutable = jax.tree.map(jnp.asarray, (result.variables, result.mutable))
    result = dataclasses.replace(result, batch=batch, variables=variables, mutable=mutable)
    return dataclasses.replace(result, assessment=_with_draws(result, key))


def _without_draws(assessment: Assessment) -> Assessment:
    importance, none = assessment.importance, np.zeros(0)
    if importance is not None:
        importance = importance._replace(log_weights=none)
    diagnostics = assessment.diagnostics._replace(importance=importance)
    return assessment._replace(draws=Draws({}, none, none), diagnostics=diagnostics)


def _with_log_weights(assessment: Assessment, draws: Draws, log_weights: np.ndarray) -> Assessment:
    importance = assessment.importance
    assert importance is not None
    diagnostics = assessment.diagnostics._replace(
        importance=importance._replace(log_weights=log_weights)
    )
    return assessment._replace(draws=draws, diagnostics=diagnostics)


def _of_guide(result: FitResult, key: Any) -> Assessment:
    """The assessment with draws whose log densities are not known, for lack of the data."""
    assessment, num = result.assessment, _MAX_STATES
    if assessment.draws.z or assessment.importance is None:
        return assessment
    state = (result.variables.guide, result.target.space, host_rng(fold_in(key, 5)), num)
    found = result.guide.host_draws(*state)
    if found is None:
        return assessment
    z = weights.split(result.target.space, found.points)
    unknown = np.full(num, np.nan)
    return _with_log_weights(assessment, Draws(z, unknown, found.log_q), np.full(num, -np.log(num)))


def _with_draws(result: FitResult, key: Any) -> Assessment:
    assessment = result.assessment
    dense = isinstance(result.guide, DensityGuide)
    if assessment.draws.z or assessment.importance is None or not dense:
        return assessment
    num = num_assessment_draws(result.batch, result.target)
    state = (result.target, result.guide, result.variables, result.mutable)
    draws = weights.draw(*state, fold_in(key, 5), result.batch, num)
    return _with_log_weights(assessment, draws, weights.importance(draws.log_weights).log_weights)
