"""The initial variables of a fit: the model's parameters, and the guide's for each restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, PyTree, Solution, Target, Variables
from vijax.engine import initialization as _initialization
from vijax.engine.common_draws import common_log_weights
from vijax.engine.problem import Problem
from vijax.fitting.warm_start import WarmStart, warm_start, warm_state
from vijax.model import init_strategy
from vijax.model.data_dependence import dependent_sites, with_placeholders
from vijax.posterior.posterior import Posterior
from vijax.posterior.sampling import median
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in


def model_state(problem: Problem, init: Any) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Initial values of `param` sites and mutable state; runs nothing for models without them."""
    (target, batch), key = problem.sample, problem.key
    shapes = jax.eval_shape(target.initialize, key, batch)
    if not any(shapes):
        return {}, {}
    fresh = target.program(_initialize, quick=True)(fold_in(key, 1), batch)
    return warm_state(init._result, *fresh) if isinstance(init, Posterior) else fresh


def _initialize(target: Target, key: Array, batch: Batch) -> Any:
    return target.initialize(key, batch)


def initial_variables(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Variables]:
    """The initial variables of each of `count` restarts; if 0, one set at the origin."""
    if isinstance(init, Posterior):
        init = warm_start(init._result, problem)
    starts = problem.guide.num_starts
    if count and (starts or init is not None):
        positions = initial_positions(init, problem, parameters, mutable, count * max(starts, 1))
    else:  # or the guide's parameters do not depend on a position
        positions = [_initialization.origin(problem.target.space)] * max(count, 1)
    return variables_at(init, problem, parameters, positions)


def initial_positions(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Position]:
    """One unconstrained position for each restart."""
    key, target = fold_in(problem.key, 2), problem.target
    first = (problem.first_batch, parameters, mutable, key)
    if init is None:
        found = _initialization.random_starts(target.on_batch, *first, count)
        return [_initialization.extend_to_all_rows(target.space, z) for z in found]
    if not target.subsampling.whole:
        expected = "none for a model with arrays of the size of a minibatch"
        remedy = "Leave it out, or index these arrays by the rows of the plate."
        raise ModelError(mismatch("init", expected, type(init).__name__, remedy))
    known: Position = {}
    if isinstance(init, WarmStart):
        known = init.location(target)
        missing = [name for name in target.space.names if name not in known]
        medians = median(init.earlier) if {*missing} & {*init.earlier.target.space.names} else {}
        values = {name: medians[name] for name in missing if name in medians}
    elif isinstance(init, Mapping):
        values = dict(init)
    elif callable(init):
        strategy = init_strategy(problem.model, problem.arguments, init)
        found = jax.device_get(jax.jit(strategy)(key, problem.first_batch))
        values = {name: found[name] for name in target.space.names}
    else:
        raise TypeError(
            "init: expected initial values by site, a Posterior or a NumPyro init_to_* strategy, "
            f"got {type(init).__name__}."
        )
    start = known
    if values or known.keys() != {*target.space.names}:
        start = (
            _initialization.position_from_values(
                target, _placeholder_batch(problem, parameters, mutable), *first, values
            )
            | known
        )
    keys = (fold_in(key, i) for i in range(1, count))
    return [start, *(_initialization.jitter(target.space, start, one) for one in keys)]


def _placeholder_batch(
    problem: Problem, parameters: dict[str, PyTree], mutable: dict[str, PyTree]
) -> Batch:
    """The data with placeholders for arrays not in memory, to unconstrain initial values.

    Raises:
        ModelError: a latent site's support depends on arrays that are read batch by batch.
    """
    target, sources = problem.target, problem.arguments.sources
    if not sources:
        return problem.batch
    batch = with_placeholders(problem.batch, problem.arguments, sources)
    state = (batch, Variables(None, parameters), mutable, tuple(sources))
    for name in dependent_sites(target, *state) & {*target.space.names}:
        expected = "sites whose support does not depend on data that are read batch by batch"
        raise ModelError(mismatch("init", expected, f"{name!r}", "Leave out init=."))
    return batch


def variables_at(
    init: Any, problem: Problem, parameters: dict[str, PyTree], positions: list[Position]
) -> list[Variables]:
    """The variables at each position; the first takes parameters from an earlier posterior."""
    target, guide = problem.target, problem.guide
    if guide.num_starts > 1:  # every fit has several of them
        fits = len(positions) // guide.num_starts
        groups = (positions[i::fits] for i in range(fits))
        positions = [jax.tree.map(lambda *rows: np.stack(rows), *group) for group in groups]
    found = [
        _initialization.initial_params(
            target, guide, fold_in(problem.key, 100 + i), position, problem.first_batch
        )
        for i, position in enumerate(positions)
    ]
    if isinstance(init, WarmStart):
        found[0] = init.params(guide, found[0], target.space)
    return [Variables(params, parameters) for params in found]


def ensure_finite(problem: Problem, solution: Solution, mutable: dict[str, PyTree]) -> Solution:
    """The solution if its log weights are finite, else one at a random finite position.

    Raises:
        ModelError: no finite position was found.
    """
    target, guide, batch = problem.target, problem.guide, problem.batch
    found = common_log_weights(target, guide, solution.variables, mutable, batch, problem.schedule)
    if np.isfinite(found).all():
        return solution
    positions = initial_positions(None, problem, solution.variables.model, mutable, 1)
    variables = variables_at(None, problem, solution.variables.model, positions)[0]
    return solution._replace(variables=variables)
