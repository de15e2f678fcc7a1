"""Yesterday's posterior as today's prior: updates by new data, without the old ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import Array

from vijax.diagnostics.diagnosis import TRUSTED
from vijax.diagnostics.earlier_data import EarlierData, Replaced
from vijax.model.predictive import model_call
from vijax.model.tracing.arguments import Arguments
from vijax.model.updating import Earlier, Updated, earlier_supports
from vijax.posterior.earlier_batches import conjugate_blocks, with_kept_batches
from vijax.posterior.earlier_moments import ENOUGH_DRAWS, labels_of, moments, normal_prior
from vijax.posterior.labels import coords_of
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ArgumentError, ModelError, mismatch
from vijax.runtime.keys import fold_in

_SHOWN = 10  # labels in an error

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
    labels = labels_of(result, supports)
    last = result.assessment.diagnostics.earlier
    num_updates = 1 if last is None else last.num_updates + 1
    key = fold_in(key, num_updates)  # errors of equal draws would add up
    replaced = () if last is None else last.replaced_on(labels)
    if last is not None and last.labels == labels:
        before, covariance = last.now, last.covariance
    else:
        before, covariance = moments(result, supports, fold_in(key, 1))
    doubt = "" if last is None else last.doubt
    exact = None
    if forgetting == 1 and not new_groups:
        exact = _without_approximation(
            result, model, call.arguments, supports, before, fold_in(key, 4)
        )
    if exact is None:
        if before.num_draws < ENOUGH_DRAWS and not result.missing:
            before, covariance = moments(result, supports, fold_in(key, 1), ENOUGH_DRAWS)
        normal = normal_prior(before, covariance, forgetting)
        updated, earlier = Updated(model, tuple(supports)), Earlier(normal)
        replaced, doubt = (*replaced, before), doubt or _doubt(result, before)
    else:
        updated, earlier = exact
    if updated.blocks:
        options = {"guide": result.guide.unbound, **options}
    options = {"coords": coords_of(result, supports.keys()), **options}
    (fit,) = _registered
    arguments = {**kwargs, "earlier": earlier}
    posterior = fit(updated, *args, rng_key=fold_in(key, 2), model_kwargs=arguments, **options)
    found = posterior._result
    if not np.isfinite(found.assessment.elbo):  # no draws
        return found
    kept = 0 if earlier.batches is None else int(earlier.batches.used.sum())
    passed_on = tuple(one.forgotten(forgetting) for one in replaced), before.forgotten(forgetting)
    now = moments(found, supports, fold_in(key, 3))
    history = EarlierData(labels, num_updates, kept, *passed_on, *now, doubt)
    diagnostics = found.assessment.diagnostics._replace(earlier=history)
    return dataclasses.replace(found, assessment=found.assessment._replace(diagnostics=diagnostics))


def _without_approximation(
    result: FitResult,
    model: Callable[..., Any],
    new: Arguments,
    supports: Mapping[str, Any],
    before: Replaced,
    key: Array,
) -> tuple[Updated, Earlier] | None:
    """The model given conjugate families or batches of earlier data; `None` if neither is possible.

    Args:
        result: the earlier fit.
        model: the model function.
        new: its new arguments.
        supports: of the sites that earlier data were about.
        before: the moments of the earlier posterior.
        key: random key.
    """
    blocks = conjugate_blocks(result, supports, key)
    if blocks:
        return Updated(model, (), blocks), Earlier(dict(result.params))
    several = result.assessment.diagnostics.num_modes > 1
    normal = before.is_normal and not several and not _status_doubt(result)
    earlier = None if normal else with_kept_batches(result, model, new)
    if earlier is None:
        return None
    return result.model if isinstance(result.model, Updated) else Updated(model), earlier


def _doubt(result: FitResult, before: Replaced) -> str:
    """Why a normal distribution cannot take the place of a posterior, whatever is expected of it.

    Errors of earlier updates are left out: they are added up.
    """
    if result.assessment.diagnostics.num_modes > 1:
        return "has several modes"
    if before.is_far_from_normal:
        return f"is far from normal (excess kurtosis {np.abs(before.kurtosis).max():.1f})"
    return _status_doubt(result)


def _status_doubt(result: FitResult) -> str:
    diagnostics = result.assessment.diagnostics._replace(earlier=None)
    status = result.assessment._replace(diagnostics=diagnostics).diagnosis.status
    return "" if status in TRUSTED else f"was {status}"


def _check_labels(result: FitResult, new: Arguments, new_groups: tuple[str, ...]) -> None:
    """Codes of labels are places in their list: they have to be those of the earlier fit.

    The labels of new groups may be others.

    Raises:
        ArgumentError: a column has other labels.
    """
    free = [[*map(str, result.arguments.coords.get(plate, ()))] for plate in new_groups]
    for name, labels in result.arguments.levels.items():
        if [*map(str, labels)] not in free and new.levels.get(name, labels) != labels:
            raise ArgumentError(
                mismatch(
                    f"column {name!r}",
                    f"the labels of the earlier fit, {[*labels][:_SHOWN]}",
                    [*new.levels[name]][:_SHOWN],
                    "Make it a pandas.Categorical with all categories in both.",
                )
            )
