"""The inference methods of `fit`: search over approximations, direct solver, gradient steps.

The first two return a result, or, if they did not converge, the start of gradient steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from vijax.algorithms import IVON, Adam, Gradient, NaturalGradient, Optimizer, StochasticVI
from vijax.algorithms.encoder_statistics import has_statistics
from vijax.auto.candidate import Candidate, StartingPoint, unassessed
from vijax.auto.history import Attempt
from vijax.auto.minibatch import refinement_stages
from vijax.auto.search import is_unfit, search, title
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
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.engine.row_order import plates_to_reorder
from vijax.engine.row_parameters import has_rows, variable_axes
from vijax.engine.run import Budget, Run
from vijax.engine.stopping import StopRule
from vijax.fitting.conjugate_start import subsample_start
from vijax.fitting.initial_values import ensure_finite
from vijax.fitting.memoized import memoized_solution
from vijax.guides import MeanField
from vijax.guides.conjugate import BoundConjugate
from vijax.objectives import ELBO
from vijax.posterior.finish import finish_candidate, finish_initial, finish_run, finish_solution
from vijax.posterior.result import FitResult
from vijax.runtime.deadline import keep_answer, partial_results, time_is_up
from vijax.runtime.errors import GuideError
from vijax.runtime.interrupt import defer_interrupt
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import advance, stage
from vijax.storage.checkpoint import Checkpoint, open_checkpointer

_BASE_RATE = 0.05  # Adam's learning rate before the pilot runs
_DEFAULT_FACTOR = 0.25  # learning-rate factor if losses of pilot runs cannot be compared
_PILOT_FACTORS = (1.0, 0.25, 0.0625, 0.015625)
_PILOT_STEPS = 100
# Natural-gradient steps are noisy for 1 / rate steps only: rates are reduced less, and sooner.
_NATURAL_SHRINK = 0.5
_CONJUGATE_PHASES = 5  # at smaller rates, averages over more steps have no less noise
_USABLE = ("certified", "corrected")


class FitStart(NamedTuple):
    """The initial state of a fit.

    Attributes:
        problem: what is fitted.
        variables: initial variables, one for each restart.
        mutable: the model's mutable state.
        start_time: by `time.perf_counter`.
        random_init: whether the user gave no initial values, so that others may be tried.
    """

    problem: Problem
    variables: list[Variables]
    mutable: dict[str, PyTree]
    start_time: float
    random_init: bool


class GradientOptions(NamedTuple):
    """The options of gradient steps; see `fit`."""

    algorithm: Any = "auto"
    objective: Objective | None = None
    optimizer: optax.GradientTransformation | None = None
    num_particles: int | None = None
    num_steps: int | None = None
    max_seconds: float | None = None
    precision: str | None = None


class Monitoring(NamedTuple):
    """Callbacks and checkpoints of gradient steps; see `fit`."""

    callbacks: tuple[Callable[..., Any], ...] = ()
    checkpoint: Checkpoint | None = None


def run_search(start: FitStart, named: bool) -> FitResult | FitStart:
    """Searches over approximations, or over coordinates only if the guide was `named`."""

    def keep_made(make: Callable[[], Candidate], history: tuple[Attempt, ...] = ()) -> None:
        state = (start.mutable, history, start.start_time)
        keep_answer(lambda: finish_candidate(make(), *state, complete=False))

    def keep(found: Candidate, history: tuple[Attempt, ...]) -> None:
        keep_made(lambda: found, history)

    initial = StartingPoint(start.problem, start.variables[0], start.mutable, keep_made)
    found, history = search(NAMED if named else AUTO, initial, keep)
    status, solution = found.assessment.diagnosis.status, found.solution
    # flows are fitted by gradient steps already
    final = isinstance(found.problem.guide, TransportGuide) or solution.converged or is_unfit(found)
    if status in _USABLE or final or time_is_up():
        return finish_candidate(found, start.mutable, history, start.start_time)
    return _gradient_start(start._replace(problem=found.problem), solution)


def run_direct_solver(start: FitStart, solver: Solver, final: bool) -> FitResult | FitStart:
    """Runs a direct solver; `final` if its result is returned even without convergence."""
    problem = start.problem
    with stage(title(problem.guide)), _keeping_results(start):
        state = (problem.target, problem.guide, start.variables[0], problem.batch)
        solution = solver.solve(fold_in(problem.key, 4), *state)
    final |= solution.converged or solver.exhaustive or not solver.maximizes_elbo or time_is_up()
    if final:
        if not (solution.converged or time_is_up()) and start.random_init:
            solution = ensure_finite(problem, solution, start.mutable)
        return finish_solution(problem, solution, start.mutable, start.start_time)
    return _gradient_start(start, solution)


def _keeping_results(start: FitStart) -> contextlib.AbstractContextManager[None]:
    """Keeps what a solver inside the block has so far, for a fit that is left there."""

    def keep(found: Callable[[], Solution]) -> None:
        state = (start.mutable, (), start.start_time)
        problem = start.problem
        keep_answer(lambda: finish_candidate(unassessed(problem, found()), *state, complete=False))

    return partial_results(keep)


def run_refinement(start: FitStart, max_seconds: float | None) -> FitResult:
    """Minibatch gradient steps, refined on the full data; see `vijax.auto.minibatch`."""
    problem, options = start.problem, GradientOptions(max_seconds=max_seconds)
    engine = _engine(start, options)
    engine = dataclasses.replace(engine, rule=dataclasses.replace(engine.rule, max_phases=1))
    run = engine.advance(_initial_run(engine, start, options), Budget(None, max_seconds))
    if run.phases[0].best is None or time_is_up():  # not stationary, or time is up
        return finish_run(engine, run, start.start_time)
    variables, mutable, _ = engine.latest(run)
    reason, losses = f"{run.step} minibatch steps", tuple(run.losses[:, 0])

    def finish(found: Candidate, history: tuple[Attempt, ...], complete: bool = True) -> FitResult:
        solution = found.solution
        if solution.reason != reason:
            solution = solution._replace(reason=f"{reason}, then {solution.reason}", losses=losses)
        found = found._replace(solution=solution)
        return finish_candidate(found, mutable, history, start.start_time, complete, run.step)

    def keep(found: Candidate, history: tuple[Attempt, ...]) -> None:
        keep_answer(lambda: finish(found, history, complete=False))

    steps = run._replace(reason=reason)  # they end at the first learning rate
    keep_answer(lambda: finish_run(engine, steps, start.start_time, complete=False))
    stages = refinement_stages(Solution(variables, reason, True, run.step, losses))
    return finish(*search(stages, StartingPoint(problem, variables, mutable), keep))


def run_gradient_steps(
    start: FitStart, options: GradientOptions, monitoring: Monitoring, chains: Chains
) -> FitResult:
    """Runs gradient steps, continuing from the latest checkpoint if there is one."""
    callbacks = monitoring.callbacks
    if isinstance(start.problem.guide, BoundConjugate):
        by_steps = isinstance(options.algorithm, Algorithm) or options.num_steps is not None
        if not (by_steps or callbacks or monitoring.checkpoint):
            with stage(title(start.problem.guide)), _keeping_results(start):
                solution = memoized_solution(start.problem, start.variables, start.random_init)
            if solution is not None:
                return finish_solution(start.problem, solution, start.mutable, start.start_time)
        start, options = _conjugate_start(start, options)
    engine = _engine(start, options)
    budget = Budget(options.num_steps, options.max_seconds)
    fit = (engine, len(start.variables))
    with open_checkpointer(monitoring.checkpoint, *fit) as checkpointer:
        run = checkpointer.read(start.variables[0], start.mutable) if checkpointer else None
        run = run or _initial_run(engine, start, options)
        if not (run.converged or run.step >= budget.max_steps):
            callbacks = (*callbacks, checkpointer) if checkpointer else callbacks
            run = engine.advance(run, budget, callbacks)
            with defer_interrupt():
                run = checkpointer.finish(run) if checkpointer else run
    return finish_run(engine, run, start.start_time, chains)


def initial_answer(problem: Problem, start_time: float) -> FitResult:
    """The result of a fit that is interrupted before it has initial values: the guide at zero.

    A mean-field Gaussian takes the place of a guide for which a program would have to be compiled.

    Raises:
        KeyboardInterrupt: it has no parameters for discrete sites.
    """
    space = problem.target.space
    location = jax.device_get(origin(space))
    for guide in (problem.guide, *([] if space.discrete.sites else [MeanField()])):
        params = guide.host_init(space, location)
        if params is not None:
            initial = dataclasses.replace(problem, guide=guide)
            return finish_initial(initial, Variables(params), {}, start_time)
    raise KeyboardInterrupt("fit: interrupted before it had any result to return.")


def _gradient_start(start: FitStart, solution: Solution) -> FitStart:
    """The start of gradient steps after a solver that did not converge."""
    if start.random_init:
        solution = ensure_finite(start.problem, solution, start.mutable)
    return start._replace(variables=[solution.variables])


def _conjugate_start(start: FitStart, options: GradientOptions) -> tuple[FitStart, GradientOptions]:
    """The start of stochastic variational inference, and its rates."""
    count, found = 1, []
    if start.problem.schedule.subsampled:
        for number, variables in enumerate(start.variables):
            one, count = subsample_start(start.problem, variables, number, start.random_init)
            found.append(one)
    algorithm = options.algorithm
    if not isinstance(algorithm, Algorithm):
        algorithm = StochasticVI(delay=1.0 + count)
    return start._replace(variables=found or start.variables), options._replace(algorithm=algorithm)


def _initial_run(engine: Engine, start: FitStart, options: GradientOptions) -> Run:
    """A run at step 0, with the default optimizer's learning rate chosen by short pilot runs."""
    default = options.optimizer is None and options.algorithm in ("auto", "gradient")
    factor, variables = 1.0, [engine.steps.reorder(one) for one in start.variables]
    if default:  # pilot runs are compared by their losses
        comparable = engine.algorithm.maximizes_elbo
        factor = _pilot(engine, variables[0], start.mutable) if comparable else _DEFAULT_FACTOR
    return engine.start(variables, start.mutable, [factor] * len(variables))


def _engine(start: FitStart, options: GradientOptions) -> Engine:
    """The engine of the gradient steps."""
    problem, variables = start.problem, start.variables[0]
    algorithm = options.algorithm
    if algorithm == "natural":
        algorithm = NaturalGradient(None, options.num_particles, precision=options.precision)
    elif algorithm == "ivon":
        algorithm = IVON(precision=options.precision)
    elif not isinstance(algorithm, Algorithm):
        default = options.optimizer is None
        algorithm = Gradient(
            options.objective or ELBO(options.num_particles or problem.guide.num_particles),
            Adam(_BASE_RATE) if default else Optimizer(options.optimizer),
            precision=options.precision,
        )
    algorithm = algorithm.for_fit(options.num_steps, problem.guide)
    state = (problem.guide, variables.guide, problem.target.space)
    if has_statistics(*state) and not isinstance(algorithm, Gradient):
        raise GuideError(
            "algorithm: expected 'gradient' with running statistics (BatchNorm) in the encoder, "
            f"got {algorithm!r}, which does not update them. Use LayerNorm or GroupNorm there."
        )
    return Engine(
        problem,
        algorithm,
        rule=_rule(problem, variables, algorithm),
        anneal=not (algorithm.collects or algorithm.scheduled)
        and (options.optimizer is None or options.num_steps is None),
        reordered=plates_to_reorder(problem, algorithm, variables, start.mutable),
    )


def _rule(problem: Problem, variables: Variables, algorithm: Algorithm) -> StopRule:
    """The stopping rule for the guide and the algorithm."""
    target = problem.target
    if isinstance(problem.guide, BoundConjugate):  # rows are solved inside of the steps
        return StopRule(max_phases=_CONJUGATE_PHASES)
    if isinstance(problem.guide, ParticleGuide) and not target.subsampled:
        return StopRule.deterministic()
    axes = variable_axes(problem.guide, variables, target.space, target.subsampled)
    rule = StopRule.for_row_params(problem.schedule.epoch) if has_rows(axes) else StopRule()
    natural = isinstance(algorithm, NaturalGradient)
    return dataclasses.replace(rule, shrink=_NATURAL_SHRINK) if natural else rule


def _pilot(engine: Engine, variables: Variables, mutable: dict[str, PyTree]) -> float:
    """The learning-rate factor whose pilot run has the lowest loss; ties go to the larger."""
    losses: list[float] = []
    with stage("choosing the learning rate", len(_PILOT_FACTORS), "run"):
        for factor in _PILOT_FACTORS:
            if losses and time_is_up():
                return _DEFAULT_FACTOR
            losses.append(engine.trial(engine.start([variables], mutable, [factor]), _PILOT_STEPS))
            advance(1, "run")
    return _PILOT_FACTORS[int(np.argmin(losses))]
