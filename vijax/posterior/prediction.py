"""Posterior predictive draws, pointwise log likelihood, log predictive density."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch
from vijax.diagnostics.importance import block_size
from vijax.model import predictor
from vijax.posterior import condition, draws, pointwise
from vijax.posterior.requirements import require_data, unsubsampled_data
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.blockwise import Arrays, map_blocks
from vijax.runtime.checks import check_count
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in


def predict(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    from_prior: Collection[str],
) -> Arrays:
    """See `Posterior.predict`."""
    latent = [*result.target.space.names, *result.target.marginalized.sizes]
    if isinstance(from_prior, str) or not set(from_prior) < set(latent):
        expected = f"a collection of some of the sites {latent}"
        raise ModelError(mismatch("from_prior", expected, repr(from_prior)))
    if not args and not kwargs:
        require_data(result, "predict at the fit's own inputs")
        args, kwargs = result.arguments.join(result.batch.data)
    elif result.guide.amortized:
        return predict(condition.at(result, args, kwargs), key, (), {}, num_draws, from_prior)
    z = unconstrained(result, fold_in(key, 0), num_draws)
    return predictive(result, fold_in(key, 1), z, args, kwargs, from_prior)


def predictive(
    result: FitResult,
    key: Array,
    z: Arrays,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    from_prior: Collection[str] = (),
) -> Arrays:
    """Predictive draws at new arguments given unconstrained draws of the latents.

    Latents in `from_prior` are drawn from their prior given the others.
    """
    by_content = result.arguments.by_content
    program, batch = predictor(result.model, args, kwargs, result.target, by_content)
    values = draws.constrain(result, draws.with_discrete(result, z, fold_in(key, 2)))
    latent = {*result.target.space.names, *result.target.marginalized.sizes} - {*from_prior}
    values = {name: value for name, value in values.items() if name in latent}
    size = block_size(batch, result.target.space.dim)

    def block(part: Arrays, rows: np.ndarray) -> Any:
        keys = jax.random.split(fold_in(key, int(rows[0])), size)
        return program(keys, part, batch, result.variables.model, result.mutable)

    return map_blocks(block, values, size)


def log_likelihood(result: FitResult, key: Array, num_draws: int) -> Arrays:
    """See `Posterior.log_likelihood`."""
    data = unsubsampled_data(result, "log_likelihood")
    z = draws.with_discrete(result, unconstrained(result, key, num_draws), fold_in(key, 2))
    return pointwise.log_likelihood(result, data, z)


def log_predictive_density(
    result: FitResult, key: Array, args: tuple[Any, ...], kwargs: dict[str, Any], num_draws: int
) -> Arrays:
    """See `Posterior.log_predictive_density`."""
    if args or kwargs:
        result = condition.on_rows(result, "log_predictive_density", args, kwargs)
    data = unsubsampled_data(result, "log_predictive_density")
    z = unconstrained(result, key, check_count("num_draws", num_draws))
    if isinstance(data, Batch) and result.target.marginalized.sizes:
        z = draws.with_discrete(dataclasses.replace(result, batch=data), z, fold_in(key, 2))
    return pointwise.log_predictive(result, data, z)
