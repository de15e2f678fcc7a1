"""Yesterday's posterior as today's prior: updates by new data, without the old ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import DensityGuide
from vijax.diagnostics.earlier_data import EarlierData, Replaced
from vijax.model.updating import Earlier, Updated, earlier_supports, unconstrained_values
from vijax.posterior import draws, sampling
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in

_NUM_DRAWS, _MAX_ELEMENTS = 40_000, 2**24
_RELIABLE = 0.7  # k-hat up to which importance weights are
_LEAST_EIGENVALUE = 1e-12  # of a correlation matrix

Fit = Callable[..., Any]  # returns a posterior
_registered: list[Fit] = []


def register_fit(fit: Fit) -> None:
    """Sets what fits an updated model: the layer of fits is above that of posteriors."""
    _registered[:] = [fit]


def update(
    result: FitResult,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    forgetting: float,
    new_groups: tuple[str, ...],
    key: Array,
    options: dict[str, Any],
) -> FitResult:
    """See `Posterior.update`."""
    if not 0 < forgetting <= 1:
        raise ValueError(mismatch("forgetting", "a number above 0, up to 1", forgetting))
    model = result.model.model if isinstance(result.model, Updated) else result.model
    shapes = {site.name: site.shape for site in result.target.space.sites}
    supports = earlier_supports(model, args, kwargs, shapes, new_groups)
    if not supports:
        raise ModelError(mismatch("update", "latents that earlier data were about", "none"))
    labels = _labels(result, supports)
    last = result.assessment.diagnostics.earlier
    replaced = () if last is None else last.replaced_on(labels)
    if last is not None and last.labels == labels:
        before, covariance = last.now, last.covariance
    else:
        before, covariance = _moments(result, supports, fold_in(key, 1))
    scale = np.linalg.cholesky(_regular(covariance)) / np.sqrt(forgetting)
    dtype = jnp.result_type(float)
    earlier = Earlier(jnp.asarray(before.mean, dtype), jnp.asarray(scale, dtype))
    (fit,) = _registered
    posterior = fit(
        Updated(model, tuple(supports)),
        *args,
        rng_key=fold_in(key, 2),
        model_kwargs={**kwargs, "earlier": earlier},
        **options,
    )
    found = posterior._result
    if not np.isfinite(found.assessment.elbo):  # no draws
        return found
    forgotten = tuple(one.forgotten(forgetting) for one in (*replaced, before))
    history = EarlierData(labels, forgotten, *_moments(found, supports, fold_in(key, 3)))
    diagnostics = found.assessment.diagnostics._replace(earlier=history)
    return dataclasses.replace(found, assessment=found.assessment._replace(diagnostics=diagnostics))


def _moments(
    result: FitResult, supports: Mapping[str, Any], key: Array
) -> tuple[Replaced, np.ndarray]:
    """Moments and covariance of the sites in `supports`, by chain states or weighted draws.

    Weighted, too, where the fit is certified: the small errors that it may have add up.
    """
    num = max(1000, min(_NUM_DRAWS, _MAX_ELEMENTS // result.target.space.dim))
    states, weights = result.assessment.chain_states, None
    reliable = not result.khat > _RELIABLE and isinstance(result.guide, DensityGuide)
    if result.corrects and states is not None:
        z = states
    elif reliable and not result.missing:
        proposed, found = sampling.proposals(result, key, num)
        z, weights = proposed.z, np.exp(found.log_weights - found.log_weights.max())
    else:
        z = sampling.unconstrained(result, key, num)
    values = draws.constrain(result, z, result.unknown)
    points = unconstrained_values(values, supports)
    weights = np.ones(len(points)) if weights is None else weights
    weights = weights / weights.sum()
    mean = weights @ points
    centered = points - mean
    covariance = (centered * weights[:, None]).T @ centered
    sd = np.sqrt(np.diag(covariance))
    skewness = weights @ (centered / sd) ** 3
    return Replaced(mean, sd, skewness, 1 / float(weights @ weights)), covariance


def _regular(covariance: np.ndarray) -> np.ndarray:
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd) + _LEAST_EIGENVALUE * np.eye(len(sd))
    return correlation * np.outer(sd, sd)


def _labels(result: FitResult, sites: Iterable[str]) -> tuple[str, ...]:
    """Names of the coordinates of `Earlier`."""
    shapes = {site.name: site.z_shape for site in result.target.space.sites}
    labels: list[str] = []
    for name in sites:
        indices = np.ndindex(*shapes[name])
        labels += [f"{name}[{','.join(map(str, i))}]" if i else name for i in indices]
    return tuple(labels)
