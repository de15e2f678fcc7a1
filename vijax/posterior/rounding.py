"""Rounding error of the log density of large counts.

The log density of a count `y` is a difference of terms like `log y!`, of size `y log y`. In float32
these have a relative error of about 6e-8, which is the same for all draws: moments are right, but
the log evidence is shifted, and no spread of the weights shows it.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from vijax.diagnostics.assessment import Assessment
from vijax.engine.problem import Problem
from vijax.model.data_dependence import observed_arrays

_LARGE = 500  # counts up to this are exact enough
_MAX_ELEMENTS = 2**24  # larger arrays are not looked at


def with_rounding_error(assessment: Assessment, problem: Problem) -> Assessment:
    """The assessment with the rounding error of large observed counts in its standard errors."""
    importance = assessment.importance
    if importance is None or jnp.result_type(float) == np.float64:
        return assessment
    error = _rounding_error(problem)
    se = math.hypot(importance.log_evidence_se, error)
    diagnostics = assessment.diagnostics._replace(
        importance=importance._replace(log_evidence_se=se), rounding=error
    )
    return assessment._replace(diagnostics=diagnostics)


def _rounding_error(problem: Problem) -> float:
    """`eps sqrt(sum (y log y)^2)` over the observed counts `y` that are large."""
    terms = {}
    for name, value in problem.batch.data.items():
        elsewhere = not getattr(value, "is_fully_addressable", True)
        if elsewhere or value.size > _MAX_ELEMENTS:
            continue
        array = np.asarray(value)
        peak = array.max(initial=0)
        if np.isfinite(peak) and peak > _LARGE and np.all(array == np.floor(array)):
            y = array[array > 1].astype(np.float64)
            terms[name] = float(np.sum((y * np.log(y)) ** 2))
    if not terms:
        return 0.0
    observed = observed_arrays(problem.target, problem.batch)
    total = sum(term for name, term in terms.items() if name in observed)
    return float(np.finfo(np.float32).eps / 2 * math.sqrt(total))
