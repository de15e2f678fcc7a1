"""The three ways to an answer: up the stages, by one direct solver, by gradient steps.

The first two answer with a posterior, or with where gradient steps are to go on from.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

from vijax.algorithms import Adam, Gradient, Optimizer
from vijax.auto.minibatch import refinement
from vijax.auto.search import INTERRUPTED, search
from vijax.auto.stages import AUTO, NAMED
from vijax.contracts import (
    Algorithm,
    Objective,
    ParticleGuide,
    PyTree,
    Solution,
    Solver,
    TransportGuide,
    Variables,
)
from vijax.diagnostics.assessment import Chains
from vijax.engine.engine import Engine
from vijax.engine.problem import Problem
from vijax.engine.row_order import worthwhile
from vijax.engine.row_parameters import has_rows, variable_axes
from vijax.engine.run import Budget, Run
from vijax.engine.stopping import StopRule
from vijax.fitting.initial_values import finite
from vijax.objectives import ELBO
from vijax.posterior.finish import finish_candidate, finish_run, finish_solution
from vijax.posterior.posterior import Posterior
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import Progress
from vijax.storage.checkpoint import Checkpoint, kept

_BASE_RATE = 0.05  # Adam's step size before the pilot
_UNTRIED_FACTOR = 0.25
_PILOT_FACTORS = (1.0, 0.25, 0.0625, 0.015625)
_PILOT_STEPS = 100
_USABLE = ("certified", "corrected")


class FitStart(NamedTuple):
    """A fit that has begun.

    Attributes:
        problem: what is fitted.
        variables: where to start, one for each restart.
        mutable: the model's mutable state.
        since: when it began, by `time.perf_counter`.
        random: whether nobody has said where to start, so that other places may be tried.
    """

    problem: Problem
    variables: list[Variables]
    mutable: dict[str, PyTree]
    since: float
    random: bool


class GradientOptions(NamedTuple):
    """What the user wants of gradient steps; see `fit`."""

    algorithm: Any = "auto"
    objective: Objective | None = None
    optimizer: optax.GradientTransformation | None = None
    num_particles: int | None = None
    num_steps: int | None = None
    max_seconds: float | None = None
    precision: str | None = None


class Monitoring(NamedTuple):
    """Who is told how the steps go; see `fit`."""

    callbacks: tuple[Callable[..., Any], ...] = ()
    checkpoint: Checkpoint | None = None
    progress_bar: bool = True


def by_search(
    begun: FitStart, max_seconds: float | None, progress_bar: bool, named: bool
) -> Posterior | FitStart:
    """The answer of the stages, or of its stages for a guide that was named."""
    with Progress(progress_bar, steps=False) as bar:
        start = (begun.problem, begun.variables[0], begun.mutable)
        found, history = search(NAMED if named else AUTO, *start, max_seconds, bar)
    status, solution = found.assessment.diagnosis.status, found.solution
    # a flow has had its gradient steps
    final = isinstance(found.problem.guide, TransportGuide)
    final |= solution.converged or solution.reason.startswith(INTERRUPTED)
    if status in _USABLE or final:
        return Posterior(finish_candidate(found, begun.mutable, history, begun.since))
    return _go_on(begun._replace(problem=found.problem), solution)


def by_direct_solver(begun: FitStart, solver: Solver, final: bool) -> Posterior | FitStart:
    """The answer of one direct solver; `final` if it is to be taken as it comes."""
    problem = begun.problem
    try:
        state = (problem.target, problem.guide, begun.variables[0], problem.batch)
        solution = solver.solve(fold_in(problem.key, 4), *state)
    except KeyboardInterrupt:
        solution, final = Solution(begun.variables[0], INTERRUPTED, False, 0), True
    final |= solution.converged or solver.exhaustive or not solver.maximizes_elbo
    if final:
        if not (solution.converged or solution.reason == INTERRUPTED) and begun.random:
            solution = finite(problem, solution, begun.mutable)
        return Posterior(finish_solution(problem, solution, begun.mutable, begun.since))
    return _go_on(begun, solution)


def by_refinement(begun: FitStart, max_seconds: float | None, progress_bar: bool) -> Posterior:
    """What steps on batches have found, refined on all rows; see `vijax.auto.minibatch`."""
    problem, steps = begun.problem, GradientOptions(max_seconds=max_seconds)
    engine = _engine(begun, steps)
    engine = dataclasses.replace(engine, rule=dataclasses.replace(engine.rule, max_phases=1))
    with Progress(progress_bar, None) as bar:
        run = engine.advance(_first(engine, begun, steps), Budget(None, max_seconds), progress=bar)
    left = max_seconds and max(0.0, max_seconds - (time.perf_counter() - begun.since))
    if run.phases[0].best is None or left == 0:  # time is up, or worse
        return Posterior(finish_run(engine, run, begun.since))
    variables, mutable, _ = engine.latest(run)
    reason, losses = f"{run.step} steps on batches", tuple(run.losses[:, 0])
    stages = refinement(Solution(variables, reason, True, run.step, losses))
    with Progress(progress_bar, steps=False) as bar:
        found, history = search(stages, problem, variables, mutable, left, bar)
    solution = found.solution
    if solution.reason != reason:
        solution = solution._replace(reason=f"{reason}, then {solution.reason}", losses=losses)
    found = found._replace(solution=solution)
    return Posterior(finish_candidate(found, mutable, history, begun.since))


def by_gradient_steps(
    begun: FitStart, steps: GradientOptions, watchers: Monitoring, chains: Chains
) -> Posterior:
    """The answer of gradient steps, from where a checkpoint is if there is one."""
    callbacks = watchers.callbacks
    engine = _engine(begun, steps)
    budget = Budget(steps.num_steps, steps.max_seconds)
    fit = (engine, len(begun.variables))
    with (
        Progress(watchers.progress_bar, steps.num_steps) as bar,
        kept(watchers.checkpoint, *fit) as keeper,
    ):
        run = keeper.read(begun.variables[0], begun.mutable) if keeper else None
        run = run or _first(engine, begun, steps)
        if not (run.converged or run.step >= budget.last):
            run = engine.advance(run, budget, (*callbacks, keeper) if keeper else callbacks, bar)
            run = keeper.finish(run) if keeper else run
    return Posterior(finish_run(engine, run, begun.since, chains))


def _go_on(begun: FitStart, solution: Solution) -> FitStart:
    """Where gradient steps take over from a solver that did not converge."""
    if begun.random:
        solution = finite(begun.problem, solution, begun.mutable)
    return begun._replace(variables=[solution.variables])


def _first(engine: Engine, begun: FitStart, steps: GradientOptions) -> Run:
    """A run at step 0, at the step size that a short pilot likes best."""
    own = steps.optimizer is None and not isinstance(steps.algorithm, Algorithm)
    factor, variables = 1.0, [engine.steps.reorder(one) for one in begun.variables]
    if own:  # trials are compared by their losses
        told = engine.algorithm.maximizes_elbo
        factor = _pilot(engine, variables[0], begun.mutable) if told else _UNTRIED_FACTOR
    return engine.start(variables, begun.mutable, [factor] * len(variables))


def _engine(begun: FitStart, steps: GradientOptions) -> Engine:
    """The engine for gradient steps, with the algorithm asked for."""
    problem, variables = begun.problem, begun.variables[0]
    algorithm = steps.algorithm
    if not isinstance(algorithm, Algorithm):
        own = steps.optimizer is None
        algorithm = Gradient(
            steps.objective or ELBO(steps.num_particles or problem.guide.num_particles),
            Adam(_BASE_RATE) if own else Optimizer(steps.optimizer),
            precision=steps.precision,
        )
    return Engine(
        problem,
        algorithm,
        rule=_rule(problem, variables),
        anneal=steps.optimizer is None or steps.num_steps is None,
        reordered=worthwhile(problem, algorithm, variables, begun.mutable),
    )


def _rule(problem: Problem, variables: Variables) -> StopRule:
    """The stopping rule that suits the guide."""
    target = problem.target
    if isinstance(problem.guide, ParticleGuide) and not target.subsampled:
        return StopRule.without_noise()
    axes = variable_axes(problem.guide, variables, target.space, target.subsampled)
    return StopRule.by_row(problem.schedule.epoch) if has_rows(axes) else StopRule()


def _pilot(engine: Engine, variables: Variables, mutable: dict[str, PyTree]) -> float:
    """The step-size factor whose short trial ends lowest; larger ones win ties."""
    scores = [
        engine.trial(engine.start([variables], mutable, [factor]), _PILOT_STEPS)
        for factor in _PILOT_FACTORS
    ]
    return _PILOT_FACTORS[int(np.argmin(scores))]
