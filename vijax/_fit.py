"""`fit`: trace the model, choose guide and algorithm, run, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from vijax import _centring, _options, _outcome, _starts
from vijax._contracts import (
    Algorithm,
    Batch,
    Guide,
    Objective,
    Position,
    PyTree,
    Solution,
    Solver,
    Target,
    TransportGuide,
    Variables,
)
from vijax._engine import Budget, Engine, scores
from vijax._errors import ModelError
from vijax._keys import as_key, fold_in
from vijax._ladder import INTERRUPTED, climb
from vijax._posterior import Posterior
from vijax._problem import Problem
from vijax._progress import Progress
from vijax.algorithms import Adam, Gradient, Optimizer
from vijax.guides import resolve
from vijax.model import build, check_data, init_strategy, split, unwrap
from vijax.objectives import ELBO, ScoreELBO
from vijax.solvers import by_name, default_solver

_FULL_RANK_DIM = 500  # largest dimension at which d x d work stays cheap beside the model
_BASE_RATE = 0.05  # Adam's step size before the pilot
_PILOT_FACTORS = (1.0, 0.25, 0.0625, 0.015625)
_PILOT_STEPS = 100
_USABLE = ("certified", "corrected")
_STEPWISE = ("objective", "optimizer", "num_steps", "num_particles", "num_restarts")


def fit(
    model: Callable[..., Any],
    *args: Any,
    rng_key: Any = 0,
    guide: Any = "auto",
    algorithm: str | Algorithm | Solver = "auto",
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int | None = None,
    num_particles: int | None = None,
    num_restarts: int | None = None,
    init: Any = None,
    centring: Mapping[str, Any] | None = None,
    max_seconds: float | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fits an approximate posterior to a NumPyro model.

    Args:
        model: a NumPyro model function.
        *args: its positional arguments. Arrays are data; anything else is configuration.
        rng_key: an int, a JAX key or a legacy key.
        guide: `"auto"`, `"meanfield"`, `"fullrank"`, `"lowrank"`, `"laplace"`, `"map"`,
            `"flow"` or the name of one (`"realnvp"`, `"nsf"`, `"iaf"`, ...), a vijax guide,
            `{site or tuple of sites: any of these}`, a NumPyro autoguide or guide function.
        algorithm: `"auto"`, `"gradient"`, the name of a solver (`"pathfinder"`,
            `"batch_and_match"`, `"variational_newton"`, `"fixed_draws"`, `"laplace"`, `"mode"`), an
            `Algorithm` or a `Solver`.
        objective: what to minimise; the negative ELBO by default.
        optimizer: any optax transformation; Adam with a step size found by a short pilot by
            default.
        num_steps: gradient steps; `None` runs until converged.
        num_particles: draws per gradient step; by default 1, for flows 64.
        num_restarts: independent starts run side by side, the best kept by a fresh ELBO.
        init: start values by site (constrained), an earlier `Posterior`, or a NumPyro
            `init_to_*` strategy.
        centring: by hierarchical site, weights from 0 (non-centred) to 1 (as the model has it) of
            the coordinates it is fitted in: a number, or one per coordinate. By default learned
            for `guide="auto"`, the model's own for any other guide. Draws are the same either way.
        max_seconds: wall-clock limit.
        callbacks: called as `callback(state, losses, step)` a few times a second; raising
            `StopIteration` ends the fit.
        progress_bar: whether to show one on a terminal.
        model_kwargs: keyword arguments of the model that clash with an option.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Posterior`. Trouble on the way (no convergence, non-finite steps, Ctrl-C) is in its
        `status` and `report()`.

    Raises:
        ModelError: the model or its data cannot be fitted.
        GuideError: the guide does not fit the model.
        TypeError, ValueError: an option is unknown or has the wrong type or value.
    """
    began = time.perf_counter()
    options = {name: value for name, value in locals().items() if name in _DEFAULTS}
    model_kwargs = dict(model_kwargs or {})
    model, args, kwargs = unwrap(model, args, kwargs)
    _options.check_names(model, options, _DEFAULTS, kwargs, model_kwargs)
    _options.check_values(options)
    if isinstance(algorithm, str):
        algorithm = by_name(algorithm) or algorithm

    arguments, data = split(model, args, {**kwargs, **model_kwargs})
    target = build(model, arguments)
    if not target.differentiable and objective is None and algorithm == "auto":
        objective = options["objective"] = ScoreELBO()
    batch = Batch(data, centring=_centring.chosen(target, centring))
    check_data(target, arguments, batch)
    key = as_key(rng_key)
    chosen = resolve(_auto(target) if guide == "auto" else guide, target, model, arguments)
    problem = Problem(model, arguments, target, chosen, batch, key)
    parameters, mutable = _model_state(target, batch, key)
    stepwise = any(options[name] is not None for name in _STEPWISE) or bool(callbacks)
    solver = None if stepwise else _solver(algorithm, problem, parameters)
    if solver is None or init is not None:
        starts = _positions(init, problem, parameters, mutable, num_restarts or 1)
    else:
        starts = [_starts.origin(target.space)]  # solvers look for better ones themselves
    variables = _variables(init, problem, parameters, starts)
    if guide == "auto" and solver is not None and solver.maximises_elbo and algorithm is not solver:
        with Progress(progress_bar, steps=False) as bar:
            found, history = climb(problem, variables[0], mutable, max_seconds, bar)
        status, ended = found.assessment.verdict.status, found.solution
        # a flow has had its gradient steps
        final = isinstance(found.problem.guide, TransportGuide)
        final |= ended.converged or ended.reason.startswith(INTERRUPTED)
        if status in _USABLE or final:
            return Posterior(**_outcome.of_candidate(found, mutable, history, began))
        problem, solution = found.problem, found.solution
        variables = [(_finite(problem, solution, mutable) if init is None else solution).variables]
    elif solver is not None:
        solution = _solve(solver, problem, variables[0], mutable, init is None)
        final = solver.exhaustive or not solver.maximises_elbo
        if solution.converged or algorithm is solver or final:
            return Posterior(**_outcome.of_solution(problem, solution, mutable, began))
        if solution.reason == INTERRUPTED:
            return Posterior(**_outcome.of_solution(problem, solution, mutable, began))
        variables = [solution.variables]

    engine = _engine(problem, algorithm, objective, optimizer, num_particles, num_steps)
    with Progress(progress_bar, num_steps) as bar:
        own = optimizer is None and not isinstance(algorithm, Algorithm)
        factor = _pilot(engine, variables[0], mutable) if own else 1.0
        run = engine.start(variables, mutable, [factor] * len(variables))
        run = engine.advance(run, Budget(num_steps, max_seconds), callbacks, bar)
    return Posterior(**_outcome.of_run(model, arguments, engine, run, began))


_DEFAULTS = {
    "rng_key": 0,
    "guide": "auto",
    "algorithm": "auto",
    "objective": None,
    "optimizer": None,
    "num_steps": None,
    "num_particles": None,
    "num_restarts": None,
    "init": None,
    "centring": None,
    "max_seconds": None,
    "callbacks": (),
    "progress_bar": True,
    "model_kwargs": None,
}


def _auto(target: Target) -> str:
    """The guide behind `"auto"`: the richest whose cost suits the dimension."""
    return "fullrank" if target.space.dim <= _FULL_RANK_DIM else "lowrank"


def _model_state(
    target: Target, batch: Batch, key: Array
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Start values of `param` sites and mutable state; runs nothing for models without them."""
    shapes = jax.eval_shape(target.initialise, key, batch)
    if not any(shapes):
        return {}, {}
    return target.program(_initialise)(fold_in(key, 1), batch)


def _initialise(target: Target, key: Array, batch: Batch) -> Any:
    return target.initialise(key, batch)


def _positions(
    init: Any,
    problem: Problem,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    count: int,
) -> list[Position]:
    """One start a restart, in unconstrained space."""
    key, target = fold_in(problem.key, 2), problem.target
    state = (target, problem.first_batch, parameters, mutable, key)
    if init is None:
        return _starts.random_starts(*state, count)
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
    start = _starts.given_start(*state, values)
    moved = (fold_in(key, i) for i in range(1, count))
    return [start, *(_starts.jitter(target.space, start, one) for one in moved)]


def _variables(
    init: Any, problem: Problem, parameters: dict[str, PyTree], starts: list[Position]
) -> list[Variables]:
    """The variables at every start; the first continues an earlier posterior of the same guide."""
    guide, space = problem.guide, problem.target.space
    if isinstance(init, Posterior) and init.guide == guide and init.target.space == space:
        first = [init.variables]
    else:
        first = []
    keys = (fold_in(problem.key, 100 + i) for i in range(len(starts)))
    program = problem.target.program(_initial, guide)
    fresh = (program(key, z, problem.first_batch) for key, z in zip(keys, starts, strict=True))
    return [*first, *(Variables(params, parameters) for params in fresh)][: len(starts)]


def _solve(
    solver: Solver,
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    random: bool,
) -> Solution:
    """The solver's solution; where it fails, at least a finite place to go on from.

    Raises:
        ModelError: random starts were wanted and none is finite.
    """
    key = fold_in(problem.key, 4)
    target, guide, batch = problem.target, problem.guide, problem.batch
    try:
        solution = solver.solve(key, target, guide, variables, batch)
    except KeyboardInterrupt:
        return Solution(variables, INTERRUPTED, False, 0)
    if solution.converged or not random:
        return solution
    return _finite(problem, solution, mutable)


def _finite(problem: Problem, solution: Solution, mutable: dict[str, PyTree]) -> Solution:
    """A solution that failed, or at least a finite place to go on from.

    Raises:
        ModelError: there is none.
    """
    target, guide, batch = problem.target, problem.guide, problem.batch
    starts = _positions(None, problem, solution.variables.model, mutable, 1)
    found = scores(target, guide, solution.variables, mutable, batch, problem.rows)
    if np.isfinite(found).all():
        return solution
    fresh = _variables(None, problem, solution.variables.model, starts)[0]
    return solution._replace(variables=fresh)


def _initial(target: Target, guide: Guide, key: Array, start: Position, batch: Batch) -> PyTree:
    return guide.init(key, target.space, start, batch)


def _solver(algorithm: Any, problem: Problem, parameters: dict[str, PyTree]) -> Solver | None:
    """The direct solver for this fit, `None` where gradient steps are to be taken."""
    if isinstance(algorithm, Solver):
        if problem.rows.subsampled:
            raise ModelError(
                "algorithm: a solver needs the full data, but the model subsamples the plate "
                f"{next(iter(problem.rows.subsampled))!r}. Use algorithm='gradient'."
            )
        return algorithm
    if algorithm != "auto" or problem.rows.subsampled:
        return None
    solver = default_solver(problem.guide, problem.target.space.dim)
    # solvers for the ELBO hold `param` sites fixed; gradient steps fit them along
    return None if solver is not None and solver.maximises_elbo and parameters else solver


def _engine(
    problem: Problem,
    algorithm: Any,
    objective: Objective | None,
    optimizer: optax.GradientTransformation | None,
    num_particles: int | None,
    num_steps: int | None,
) -> Engine:
    """The engine for gradient steps, with the algorithm asked for."""
    if not isinstance(algorithm, Algorithm):
        algorithm = Gradient(
            objective or ELBO(num_particles or problem.guide.num_particles),
            Adam(_BASE_RATE) if optimizer is None else Optimizer(optimizer),
        )
    return Engine(
        target=problem.target,
        guide=problem.guide,
        algorithm=algorithm,
        batch=problem.batch,
        rows=problem.rows,
        key=fold_in(problem.key, 3),
        anneal=optimizer is None or num_steps is None,
    )


def _pilot(engine: Engine, variables: Variables, mutable: dict[str, PyTree]) -> float:
    """The step-size factor whose short trial ends lowest; larger ones win ties."""
    scores = [
        engine.trial(engine.start([variables], mutable, [factor]), _PILOT_STEPS)
        for factor in _PILOT_FACTORS
    ]
    return _PILOT_FACTORS[int(np.argmin(scores))]
