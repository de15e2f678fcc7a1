"""Draws of all sites of a model, from its prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.diagnostics.importance import block_size
from vijax.model import predictive_program
from vijax.posterior.model_state import ModelState
from vijax.runtime.blockwise import Arrays, map_blocks
from vijax.runtime.errors import warn


def prior_groups(state: ModelState, key: Array, num_draws: int) -> dict[str, Arrays]:
    """Draws at the model's own inputs, in the groups of ArviZ: latents, and observed sites."""
    args, kwargs = state.arguments.join(state.batch.data)
    drawn = draw_prior(state, key, args, kwargs, num_draws)
    observed = state.target.structure.observed
    return {
        "prior": {name: x for name, x in drawn.items() if name not in observed},
        "prior_predictive": {name: x for name, x in drawn.items() if name in observed},
    }


def draw_prior(
    state: ModelState,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    do: Mapping[str, Any] | None = None,
) -> Arrays:
    """Joint draws of all sites, in the order of the model."""
    target, do = state.target, do or {}
    found = predictive_program(state.model, args, kwargs, target, state.arguments, do=do)
    run = found.program
    _warn_of_factors(target.structure.factors)
    size = block_size(found.batch, found.num_elements)
    set_values = {name: np.asarray(x) for name, x in do.items()}
    values = {name: np.broadcast_to(x, (num_draws, *x.shape)) for name, x in set_values.items()}

    def block(part: Arrays, rows: np.ndarray) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, part.pop(""))
        return run(keys, part, found.batch, state.variables.model, state.mutable)

    draws = map_blocks(block, {"": np.arange(num_draws), **values}, size)
    order = [name for name in target.structure.dims if name in draws]
    return {name: draws[name] for name in [*order, *sorted(draws.keys() - order)]}


def _warn_of_factors(factors: tuple[str, ...]) -> None:
    if factors:
        names = ", ".join(map(repr, factors))
        warn(
            f"factor {names}: draws are those of the model without it, since a factor weights the "
            "prior, and cannot be drawn from."
        )
