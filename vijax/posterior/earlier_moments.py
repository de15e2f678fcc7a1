"""Moments of a posterior in the unconstrained space of its model, for a normal distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import DensityGuide, GaussianGuide
from vijax.diagnostics.earlier_data import Replaced
from vijax.diagnostics.importance import flatten
from vijax.model.updating import NormalPrior, unconstrained_values
from vijax.posterior import draws, sampling
from vijax.posterior.covariance import rows
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays

ENOUGH_DRAWS = 40_000  # for a distribution that takes the place of the posterior
_FEW_DRAWS = 4000  # to see whether it can
_MAX_ELEMENTS = 2**24
_LEAST_EIGENVALUE = 1e-12  # of a correlation matrix
_SAME = 1e-4  # absolute difference of coordinates that are the same
_LEAST_VARIANCE = 1e-6  # of estimates by differences, in units of that of one draw


class Moments(NamedTuple):
    """Of points, `(dim,)`; `kurtosis` is the excess over a normal; `covariance` is `(dim, dim)`."""

    mean: np.ndarray
    sd: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    covariance: np.ndarray


def moments(
    result: FitResult, supports: Mapping[str, Any], key: Array, num_draws: int = _FEW_DRAWS
) -> tuple[Replaced, np.ndarray]:
    """Moments and covariance of the sites in `supports`, by weighted draws or chain states.

    Weighted, too, where the fit is certified: the small errors that it may have add up. Those of a
    Gaussian guide are known, so that only what weights change is estimated (control variates).
    """
    num = max(1000, min(num_draws, _MAX_ELEMENTS // result.target.space.dim))
    z, weights = _weighted_draws(result, key, num)
    points = unconstrained_values(draws.constrain(result, z, result.unknown), supports)
    equal = np.full(len(points), 1 / len(points))
    found = _moments(points, equal if weights is None else weights)
    if weights is None:
        return Replaced(*found[:4], float(len(points))), found.covariance
    known = _of_guide(result, supports, z, points)
    if known is None:
        return Replaced(*found[:4], 1 / float(weights @ weights)), found.covariance
    drawn = _moments(points, equal)
    noise = (len(points) * weights - 1)[:, None] * (points - drawn.mean) / drawn.sd
    effective = len(points) / max(float((noise**2).mean(0).max()), _LEAST_VARIANCE)
    covariance = found.covariance - drawn.covariance + known[1]
    mean, sd = found.mean - drawn.mean + known[0], np.sqrt(np.diag(covariance))
    skewness, kurtosis = found.skewness - drawn.skewness, found.kurtosis - drawn.kurtosis
    return Replaced(mean, sd, skewness, kurtosis, effective), covariance


def _weighted_draws(result: FitResult, key: Array, num: int) -> tuple[Arrays, np.ndarray | None]:
    """Draws in unconstrained space; their weights, `None` where these are equal."""
    states = result.assessment.chain_states if result.corrects else None
    if isinstance(result.guide, DensityGuide) and not result.missing:
        proposed, found = sampling.proposals(result, key, num)
        least = num / 2 if states is not None else 0.0
        if math.isfinite(found.log_evidence_se) and found.ess > least:  # else they are unreliable
            return proposed.z, np.exp(found.log_weights) / np.exp(found.log_weights).sum()
    return (sampling.unconstrained(result, key, num) if states is None else states), None


def _of_guide(
    result: FitResult, supports: Mapping[str, Any], z: Arrays, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and covariance of a Gaussian guide, if the points have its coordinates."""
    guide, space = result.guide, result.target.space
    if not isinstance(guide, GaussianGuide) or result.relabeling:
        return None
    where = rows(result, [*supports])
    if not np.allclose(points, flatten(space, z)[:, where], atol=_SAME):
        return None
    mean = np.asarray(guide.mean(result.params, space), np.float64)
    covariance = np.asarray(guide.covariance(result.params, space), np.float64)
    return mean[where], covariance[np.ix_(where, where)]


def _moments(points: np.ndarray, weights: np.ndarray) -> Moments:
    mean = weights @ points
    centered = points - mean
    covariance = (centered * weights[:, None]).T @ centered
    sd = np.sqrt(np.diag(covariance))
    scaled = centered / sd
    return Moments(mean, sd, weights @ scaled**3, weights @ scaled**4 - 3, covariance)


def normal_prior(before: Replaced, covariance: np.ndarray, power: float) -> NormalPrior:
    """The normal distribution with these moments, to a power."""
    scale = np.linalg.cholesky(_regular(covariance)) / np.sqrt(power)
    dtype = jnp.result_type(float)
    return NormalPrior(jnp.asarray(before.mean, dtype), jnp.asarray(scale, dtype))


def _regular(covariance: np.ndarray) -> np.ndarray:
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd) + _LEAST_EIGENVALUE * np.eye(len(sd))
    return correlation * np.outer(sd, sd)


def labels_of(result: FitResult, sites: Iterable[str]) -> tuple[str, ...]:
    """Names of the coordinates of `NormalPrior`."""
    shapes = {site.name: site.z_shape for site in result.target.space.sites}
    labels: list[str] = []
    for name in sites:
        indices = np.ndindex(*shapes[name])
        labels += [f"{name}[{','.join(map(str, i))}]" if i else name for i in indices]
    return tuple(labels)
