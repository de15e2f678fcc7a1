"""Results of finished fits, with their assessment."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from vijax.auto.candidate import Candidate, assess_solution
from vijax.auto.history import Attempt
from vijax.auto.mode_search import with_mode_search
from vijax.contracts import Batch, PyTree, Solution, Variables
from vijax.diagnostics.assessment import (
    Assessment,
    Chains,
    add_gradient_check,
    add_propriety,
    assess,
    assess_minibatches,
)
from vijax.diagnostics.importance import num_elements
from vijax.engine.common_draws import common_log_weights, holds_all_rows, supports_full_data
from vijax.engine.engine import Engine
from vijax.engine.problem import Problem
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Run
from vijax.model.data_dependence import dependent_sites, with_placeholders
from vijax.posterior.result import FitResult
from vijax.posterior.rounding import with_rounding_error
from vijax.runtime.device_layout import fetch_remote_shards

_TRUSTED = ("certified", "corrected")
_SMALL_DATA = 2**22  # array elements that can be read a few thousand times in seconds


def finish_run(engine: Engine, run: Run, start: float, chains: Chains = "check") -> FitResult:
    """Result of a finished run of gradient steps: its best variables, assessed.

    Args:
        engine: of the steps.
        run: its final state.
        start: `time.perf_counter()` at the start of the fit.
        chains: see `vijax.diagnostics.assessment.assess`.
    """
    problem = dataclasses.replace(engine.problem, key=engine.steps.key)
    variables, mutable, _ = engine.best(run)
    run = run._replace(loop=fetch_remote_shards(run.loop))
    return _result(
        problem,
        variables,
        mutable,
        assessment=_assess_run(problem, engine.problem.schedule, run, variables, mutable, chains),
        stop_reason=run.reason,
        converged=run.converged,
        start=start,
        engine=engine.without_cache(),
        run=run,
    )


def _assess_run(
    problem: Problem,
    schedule: RowSchedule,
    run: Run,
    variables: Variables,
    mutable: dict[str, PyTree],
    chains: Chains,
) -> Assessment:
    """Assessment on all data where they are small, else by the ELBO on fresh batches only."""
    target, guide, batch = problem.target, problem.guide, problem.batch
    elements = num_elements(batch, target.space.dim)
    small = elements <= _SMALL_DATA and not problem.arguments.sources
    if schedule.subsampled and not (small and supports_full_data(target)):
        log_weights = common_log_weights(target, guide, variables, mutable, batch, schedule, seed=1)
        return assess_minibatches(log_weights, run.converged, run.nonfinite_steps)
    return assess(
        problem.fitted(variables, mutable),
        run.converged,
        run.nonfinite_steps,
        chains=chains,
    )


def finish_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], start: float
) -> FitResult:
    """Result of a direct solver, assessed; arguments as in `finish_candidate`."""
    assessment = assess_solution(problem, solution, mutable, "check")
    return finish_candidate(Candidate(problem, solution, assessment), mutable, (), start)


def finish_candidate(
    candidate: Candidate,
    mutable: dict[str, PyTree],
    history: tuple[Attempt, ...],
    start: float,
) -> FitResult:
    """Result of an automatic fit.

    Args:
        candidate: the best one, assessed.
        mutable: the model's mutable state.
        history: the stages of the fit.
        start: `time.perf_counter()` at the start of the fit.
    """
    problem, solution, assessment, _ = candidate
    return _result(
        problem,
        solution.variables,
        mutable,
        assessment=assessment,
        stop_reason=solution.reason,
        converged=solution.converged,
        unseen=solution.unseen,
        start=start,
        solver_losses=solution.losses,
        history=history,
        num_evaluations=None if history else solution.evaluations,
    )


def _result(
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    assessment: Assessment,
    start: float,
    unseen: float | None = None,
    **fields: Any,
) -> FitResult:
    """The result of any fit: here other modes are searched for, if they have not been."""
    diagnostics = assessment.diagnostics._replace(
        data_warnings=problem.arguments.data_warnings,
        remarks=problem.remarks.texts,
        failure_advice=problem.remarks.failure_advice,
    )
    assessment = assessment._replace(diagnostics=diagnostics)
    assessment = with_mode_search(assessment, problem, variables, mutable, unseen)
    if assessment.draws.z:
        fitted = problem.fitted(variables, mutable)
        assessment = add_propriety(assessment, fitted)
        # where nothing is compiled for it: for other fits the search for modes or chains need it
        if assessment.check is not None or assessment.diagnosis.status in _TRUSTED:
            assessment = add_gradient_check(assessment, fitted)
    assessment = with_rounding_error(assessment, problem)
    batch, missing, unknown = _known_data(problem, variables, mutable)
    return FitResult(
        model=problem.model,
        arguments=problem.arguments,
        target=problem.target,
        guide=problem.guide,
        variables=variables,
        mutable=mutable,
        batch=batch,
        missing=missing,
        unknown=unknown,
        assessment=assessment,
        seconds=time.perf_counter() - start,
        **fields,
    )


def _known_data(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[Batch, tuple[str, ...], frozenset[str]]:
    """The data in memory, names of arrays that are not, deterministics that depend on those."""
    target, arguments = problem.target, problem.arguments
    if not arguments.sources:
        batch = problem.batch if holds_all_rows(target) else problem.first_batch
        return batch, (), frozenset()
    missing = tuple(arguments.sources)
    batch = with_placeholders(problem.batch, arguments, missing)
    return batch, missing, dependent_sites(target, batch, variables, mutable, missing)
