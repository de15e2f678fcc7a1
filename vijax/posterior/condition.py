"""The posterior of other rows of data: of the same latents, or of those inferred from the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from vijax.contracts import Batch, ConditionalGuide, Target
from vijax.engine import count_bounds
from vijax.model import build, split
from vijax.model.centering import resized_weights
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError


def at(result: FitResult, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FitResult:
    """See `Posterior.at`."""
    if not result.guide.conditional:
        raise GuideError(
            f"at: expected a guide that infers latents from data, got {result.guide!r}. Fit "
            "with guides.Amortized, or fit these rows; latents of rows without data are drawn "
            "by predict(..., redraw=)."
        )
    return on_rows(result, "at", args, kwargs)


def on_rows(
    result: FitResult, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> FitResult:
    """The same approximation on other data.

    Raises:
        ModelError: the model has other latents there.
    """
    arguments, data = split(result.model, args, kwargs)
    target = build(result.model, arguments, sampled=frozenset(result.target.space.discrete.names))
    ours, theirs = (
        list(one.space.names)
        if result.guide.conditional
        else {site.name: site.shape for site in one.space.sites}
        for one in (result.target, target)
    )
    if ours != theirs:
        raise ModelError(
            f"{what}: expected the latent sites {ours} at these arguments, got {theirs}. "
            "Pass the observations, too; rows with latents of their own have to be fitted, or "
            "inferred by guides.Amortized."
        )
    return dataclasses.replace(
        result,
        arguments=arguments,
        target=target,
        batch=_coordinates(result, target, Batch(data)),
        engine=None,
        run=None,
        missing=(),
        unknown=frozenset(),
    )


def _coordinates(result: FitResult, target: Target, batch: Batch) -> Batch:
    """The batch with the fit's centering weights; inferred counts from their lower bounds."""
    parts = result.guide.product(result.params, target.space)
    inferred = [part.space for part in parts if isinstance(part.guide, ConditionalGuide)]
    counts = [site for space in inferred for site in space.sites if site.cardinality == 0]
    names = {site.name for site in counts}
    kept = {name: one for name, one in result.batch.centering.items() if name not in names}
    batch = batch._replace(centering=resized_weights(target, kept))
    bounds = count_bounds.lower_bounds(
        target, batch, counts, result.variables.model, result.mutable
    )
    return batch._replace(centering=batch.centering | jax.device_put(bounds))
