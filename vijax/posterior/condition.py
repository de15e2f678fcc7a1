"""A posterior at other rows of data: for the same latents, or amortized for local ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from vijax.contracts import AmortizedGuide, Batch, Target
from vijax.engine import count_bounds
from vijax.guides.numpyro import rebound
from vijax.model import build, check_indices, split
from vijax.model.centering import resized_weights
from vijax.posterior.labelled_rows import check_labelled_rows_of_data
from vijax.posterior.labels import kept_coords, level_coords
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError


def at(result: FitResult, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FitResult:
    """See `Posterior.at`."""
    if not result.guide.amortized:
        raise GuideError(
            f"at: expected an amortized guide, got {result.guide!r}. Fit with guides.Amortized, or "
            "fit these rows; predict(..., new_groups=) draws the latents of new rows without data."
        )
    return on_rows(result, "at", args, kwargs)


def on_rows(
    result: FitResult, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> FitResult:
    """The result of a fit with its data replaced.

    Args:
        result: of the fit.
        what: name of the calling method, for errors.
        args: the model's arguments.
        kwargs: its keyword arguments.

    Raises:
        ModelError: the model has other latents at these arguments.
    """
    fitted = result.arguments
    known = fitted.known(may_grow=False)
    arguments, data = split(result.model, args, kwargs, False, fitted.by_content, known)
    target = build(result.model, arguments, sampled=frozenset(result.target.space.discrete.names))
    expected, found = (
        list(one.space.names)
        if result.guide.amortized
        else {site.name: site.shape for site in one.space.sites}
        for one in (result.target, target)
    )
    if expected != found:
        raise ModelError(
            f"{what}: expected the latent sites {expected} at these arguments, got {found}. "
            "Pass the observations, too; rows with local latents require a new fit, or "
            "guides.Amortized."
        )
    check_indices(target, arguments, Batch(data))
    coords = kept_coords(result) | level_coords(target, arguments, Batch(data))
    moved = dataclasses.replace(
        result,
        arguments=dataclasses.replace(arguments, coords=coords, bound=fitted.bound),
        target=target,
        guide=rebound(result.guide, arguments, target),
        batch=_coordinates(result, target, Batch(data, linearized=result.batch.linearized)),
        engine=None,
        run=None,
        missing=(),
        unknown=frozenset(),
        other_rows=True,
    )
    if not result.guide.amortized:
        check_labelled_rows_of_data(result, moved)
    return moved


def _coordinates(result: FitResult, target: Target, batch: Batch) -> Batch:
    """The batch with the fit's centering weights, and lower bounds of amortized counts."""
    parts = result.guide.independent_parts(result.params, target.space)
    amortized = [part.space for part in parts if isinstance(part.guide, AmortizedGuide)]
    counts = [site for space in amortized for site in space.sites if site.cardinality == 0]
    names = {site.name for site in counts}
    kept = {name: one for name, one in result.batch.centering.items() if name not in names}
    batch = batch._replace(centering=resized_weights(target, kept))
    bounds = count_bounds.lower_bounds(
        target, batch, counts, result.variables.model, result.mutable
    )
    return batch._replace(centering=batch.centering | jax.device_put(bounds))
