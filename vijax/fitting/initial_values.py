"""The variables that a fit starts from: the model's own, and the guide's at every start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, PyTree, Solution, Target, Variables
from vijax.engine import initialization as _starts
from vijax.engine.common_draws import common_log_weights
from vijax.engine.problem import Problem
from vijax.fitting.warm_start import Carried, carried, state
from vijax.model import init_strategy
from vijax.model.data_dependence import dependent_sites, with_placeholders
from vijax.posterior.posterior import Posterior
from vijax.posterior.sampling import median
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in


def model_state(problem: Problem, init: Any) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Start values of `param` sites and mutable state; runs nothing for models without them."""
    (target, batch), key = problem.sample, problem.key
    shapes = jax.eval_shape(target.initialize, key, batch)
    if not any(shapes):
        return {}, {}
    fresh = target.program(_initialize)(fold_in(key, 1), batch)
    return state(init._result, *fresh) if isinstance(init, Posterior) else fresh


def _initialize(target: Target, key: Array, batch: Batch) -> Any:
    return target.initialize(key, batch)


def first_variables(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Variables]:
    """The variables to start from, one for each of `count` restarts; for 0 those at the origin."""
    if isinstance(init, Posterior):
        init = carried(init._result, problem)
    if count:
        starts = positions(init, problem, parameters, mutable, count)
    else:
        starts = [_starts.origin(problem.target.space)]
    return variables_at(init, problem, parameters, starts)


def positions(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Position]:
    """One start a restart, in unconstrained space."""
    key, target = fold_in(problem.key, 2), problem.target
    first = (problem.first_batch, parameters, mutable, key)
    if init is None:
        found = _starts.random_starts(target.on_batch, *first, count)
        return [_starts.widened(target.space, z) for z in found]
    known: Position = {}
    if isinstance(init, Carried):
        known = init.location(target)
        left = [name for name in target.space.names if name not in known]
        middle = median(init.earlier) if {*left} & {*init.earlier.target.space.names} else {}
        values = {name: middle[name] for name in left if name in middle}
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
    start = known
    if values or known.keys() != {*target.space.names}:
        start = (
            _starts.given_start(target, _standing(problem, parameters, mutable), *first, values)
            | known
        )
    moved = (fold_in(key, i) for i in range(1, count))
    return [start, *(_starts.jitter(target.space, start, one) for one in moved)]


def _standing(problem: Problem, parameters: dict[str, PyTree], mutable: dict[str, PyTree]) -> Batch:
    """The data as far as start values of latents may need them.

    Raises:
        ModelError: a latent's support depends on what is read batch by batch.
    """
    target, sources = problem.target, problem.arguments.sources
    if not sources:
        return problem.batch
    batch = with_placeholders(problem.batch, problem.arguments, sources)
    state = (batch, Variables(None, parameters), mutable, tuple(sources))
    for name in dependent_sites(target, *state) & {*target.space.names}:
        expected = "sites whose values can be told without the data that are read batch by batch"
        raise ModelError(mismatch("init", expected, f"{name!r}", "Leave out init=."))
    return batch


def variables_at(
    init: Any, problem: Problem, parameters: dict[str, PyTree], starts: list[Position]
) -> list[Variables]:
    """The variables at every start; the first keeps what an earlier posterior's guide had."""
    target, guide = problem.target, problem.guide
    found = [
        _starts.first_params(
            target, guide, fold_in(problem.key, 100 + i), start, problem.first_batch
        )
        for i, start in enumerate(starts)
    ]
    if isinstance(init, Carried):
        found[0] = init.params(guide, found[0], target.space)
    return [Variables(params, parameters) for params in found]


def finite(problem: Problem, solution: Solution, mutable: dict[str, PyTree]) -> Solution:
    """A solution that failed, or at least a finite place to go on from.

    Raises:
        ModelError: there is none.
    """
    target, guide, batch = problem.target, problem.guide, problem.batch
    found = common_log_weights(target, guide, solution.variables, mutable, batch, problem.schedule)
    if np.isfinite(found).all():
        return solution
    starts = positions(None, problem, solution.variables.model, mutable, 1)
    fresh = variables_at(None, problem, solution.variables.model, starts)[0]
    return solution._replace(variables=fresh)
