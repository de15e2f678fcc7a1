"""The variables that a fit starts from: the model's own, and the guide's at every start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax import _starts
from vijax._contracts import (
    Batch,
    Position,
    PyTree,
    Solution,
    Target,
    Variables,
)
from vijax._keys import fold_in
from vijax._posterior import Posterior
from vijax._problem import Problem
from vijax._scores import scores
from vijax.model import init_strategy


def model_state(
    target: Target, batch: Batch, key: Array
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Start values of `param` sites and mutable state; runs nothing for models without them."""
    shapes = jax.eval_shape(target.initialise, key, batch)
    if not any(shapes):
        return {}, {}
    return target.program(_initialise)(fold_in(key, 1), batch)


def _initialise(target: Target, key: Array, batch: Batch) -> Any:
    return target.initialise(key, batch)


def positions(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Position]:
    """One start a restart, in unconstrained space."""
    key, target = fold_in(problem.key, 2), problem.target
    state = (problem.first_batch, parameters, mutable, key)
    if init is None:
        found = _starts.random_starts(target.on_batch, *state, count)
        return [_starts.widened(target.space, z) for z in found]
    if isinstance(init, Posterior):
        center = init.center()
        values = {name: center[name] for name in target.space.names if name in center}
    elif isinstance(init, Mapping):
        values = dict(init)
    elif callable(init):
        strategy = init_strategy(problem.model, problem.arguments, init)
        found = jax.device_get(jax.jit(strategy)(key, problem.first_batch))
        values = {name: found[name] for name in target.space.names}
    else:
        raise TypeError(
            "init: expected start values by site, a Posterior or a NumPyro init_to_* strategy, "
            f"got {type(init).__name__}."
        )
    start = _starts.given_start(target, problem.batch, *state, values)
    moved = (fold_in(key, i) for i in range(1, count))
    return [start, *(_starts.jitter(target.space, start, one) for one in moved)]


def variables_at(
    init: Any, problem: Problem, parameters: dict[str, PyTree], starts: list[Position]
) -> list[Variables]:
    """The variables at every start; the first continues an earlier posterior of the same guide."""
    target, guide = problem.target, problem.guide
    if isinstance(init, Posterior) and init.guide == guide and init.target.space == target.space:
        first = [init.variables]
    else:
        first = []
    fresh = (
        _starts.first_params(
            target, guide, fold_in(problem.key, 100 + i), start, problem.first_batch
        )
        for i, start in enumerate(starts)
    )
    return [*first, *(Variables(params, parameters) for params in fresh)][: len(starts)]


def finite(problem: Problem, solution: Solution, mutable: dict[str, PyTree]) -> Solution:
    """A solution that failed, or at least a finite place to go on from.

    Raises:
        ModelError: there is none.
    """
    target, guide, batch = problem.target, problem.guide, problem.batch
    found = scores(target, guide, solution.variables, mutable, batch, problem.rows)
    if np.isfinite(found).all():
        return solution
    starts = positions(None, problem, solution.variables.model, mutable, 1)
    fresh = variables_at(None, problem, solution.variables.model, starts)[0]
    return solution._replace(variables=fresh)
