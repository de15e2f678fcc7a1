"""Yesterday's posterior as today's prior: updates by new data, without the old ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import DensityGuide, GaussianGuide
from vijax.diagnostics.earlier_data import EarlierData, Replaced
from vijax.diagnostics.importance import flatten
from vijax.model.predictive import model_call
from vijax.model.tracing.arguments import Arguments
from vijax.model.updating import (
    Earlier,
    NormalPrior,
    Updated,
    earlier_supports,
    unconstrained_values,
)
from vijax.posterior import draws, sampling
from vijax.posterior.covariance import rows
from vijax.posterior.earlier_batches import conjugate_blocks, kept_batches, prior_of
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ArgumentError, ModelError, mismatch
from vijax.runtime.keys import fold_in

_NUM_DRAWS, _MAX_ELEMENTS = 40_000, 2**24
_NORMAL = 0.05  # skewness up to which a posterior may be replaced by a normal distribution
_SHOWN = 10  # labels in an error
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
    call, _, _ = model_call(model, args, kwargs)
    _check_labels(result, call.arguments, new_groups)
    shapes = {site.name: site.shape for site in result.target.space.sites}
    supports = earlier_supports(call, shapes, new_groups)
    if not supports:
        raise ModelError(mismatch("update", "latents that earlier data were about", "none"))
    labels = _labels(result, supports)
    last = result.assessment.diagnostics.earlier
    num_updates = 1 if last is None else last.num_updates + 1
    key = fold_in(key, num_updates)  # errors of equal draws would add up
    replaced = () if last is None else last.replaced_on(labels)
    if last is not None and last.labels == labels:
        before, covariance = last.now, last.covariance
    else:
        before, covariance = _moments(result, supports, fold_in(key, 1))
    batches, blocks = None, ()
    if forgetting == 1 and not new_groups:
        blocks = conjugate_blocks(result, supports, fold_in(key, 4))
        if not blocks and np.abs(before.skewness).max() > _NORMAL:
            batches = kept_batches(result, model, call.arguments)
    if batches is not None:
        updated = result.model if isinstance(result.model, Updated) else Updated(model)
        earlier = Earlier(prior_of(result), batches)
    elif blocks:
        updated, earlier = Updated(model, (), blocks), Earlier(dict(result.params))
    else:
        updated = Updated(model, tuple(supports))
        earlier = Earlier(_normal_prior(before, covariance, forgetting))
        replaced = (*replaced, before)
    (fit,) = _registered
    posterior = fit(
        updated,
        *args,
        rng_key=fold_in(key, 2),
        model_kwargs={**kwargs, "earlier": earlier},
        **options,
    )
    found = posterior._result
    if not np.isfinite(found.assessment.elbo):  # no draws
        return found
    forgotten = tuple(one.forgotten(forgetting) for one in replaced)
    now, covariance = _moments(found, supports, fold_in(key, 3))
    history = EarlierData(
        labels,
        num_updates,
        0 if batches is None else int(batches.used.sum()),
        forgotten,
        before.forgotten(forgetting),
        now,
        covariance,
    )
    diagnostics = found.assessment.diagnostics._replace(earlier=history)
    return dataclasses.replace(found, assessment=found.assessment._replace(diagnostics=diagnostics))


def _check_labels(result: FitResult, new: Arguments, new_groups: tuple[str, ...]) -> None:
    """Codes of labels are places in their list: they have to be those of the earlier fit.

    Raises:
        ArgumentError: a column has other labels.
    """
    for name, labels in result.arguments.levels.items():
        if not new_groups and new.levels.get(name, labels) != labels:
            raise ArgumentError(
                mismatch(
                    f"column {name!r}",
                    f"the labels of the earlier fit, {[*labels][:_SHOWN]}",
                    [*new.levels[name]][:_SHOWN],
                    "Make it a pandas.Categorical with all categories in both.",
                )
            )


def _normal_prior(before: Replaced, covariance: np.ndarray, forgetting: float) -> NormalPrior:
    scale = np.linalg.cholesky(_regular(covariance)) / np.sqrt(forgetting)
    dtype = jnp.result_type(float)
    return NormalPrior(jnp.asarray(before.mean, dtype), jnp.asarray(scale, dtype))


def _moments(
    result: FitResult, supports: Mapping[str, Any], key: Array
) -> tuple[Replaced, np.ndarray]:
    """Moments and covariance of the sites in `supports`, by weighted draws or chain states.

    Weighted, too, where the fit is certified: the small errors that it may have add up.
    """
    num = max(1000, min(_NUM_DRAWS, _MAX_ELEMENTS // result.target.space.dim))
    states = result.assessment.chain_states if result.corrects else None
    weights = None
    if isinstance(result.guide, DensityGuide) and not result.missing:
        proposed, found = sampling.proposals(result, key, num)
        least = num / 2 if states is not None else 0.0
        if math.isfinite(found.log_evidence_se) and found.ess > least:  # else they are unreliable
            weights = np.exp(found.log_weights - found.log_weights.max())
    if weights is not None:
        z = proposed.z
    else:
        z = sampling.unconstrained(result, key, num) if states is None else states
    points = unconstrained_values(draws.constrain(result, z, result.unknown), supports)
    guide = result.guide
    if weights is None:
        found = _weighted(points, np.full(len(points), 1 / len(points)))
        return Replaced(*found[:3], float(len(points))), found[3]
    weights = weights / weights.sum()
    mean, sd, skewness, covariance = _weighted(points, weights)
    if isinstance(guide, GaussianGuide) and not result.relabeling:
        where = rows(result, [*supports])
        if np.allclose(points, flatten(result.target.space, z)[:, where], atol=1e-4):
            # moments of the guide are known: what the weights change is estimated by differences
            drawn = _weighted(points, np.full(len(points), 1 / len(points)))
            own_mean = np.asarray(guide.mean(result.params, result.target.space), np.float64)
            own = np.asarray(guide.covariance(result.params, result.target.space), np.float64)
            noise = (len(points) * weights - 1)[:, None] * (points - drawn[0]) / drawn[1]
            num_draws = len(points) / max(float((noise**2).mean(0).max()), 1e-6)
            mean = mean - drawn[0] + own_mean[where]
            covariance = covariance - drawn[3] + own[np.ix_(where, where)]
            sd = np.sqrt(np.diag(covariance))
            return Replaced(mean, sd, skewness - drawn[2], num_draws), covariance
    return Replaced(mean, sd, skewness, 1 / float(weights @ weights)), covariance


def _weighted(
    points: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sd, skewness and covariance of weighted points."""
    mean = weights @ points
    centered = points - mean
    covariance = (centered * weights[:, None]).T @ centered
    sd = np.sqrt(np.diag(covariance))
    return mean, sd, weights @ (centered / sd) ** 3, covariance


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
