"""What a fit that has ended comes to: the fields of its `Posterior`, assessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from vijax._contracts import PyTree, Solution, Variables
from vijax._engine import Engine, Run, scores
from vijax._history import Attempt
from vijax._keys import fold_in
from vijax._ladder import Candidate, judge
from vijax._problem import Problem
from vijax.diagnostics.assess import Assessment, assess, assess_scores
from vijax.model import Arguments


def of_run(
    model: Callable[..., Any], arguments: Arguments, engine: Engine, run: Run, began: float
) -> dict[str, Any]:
    """The best candidate of a run of gradient steps that has ended."""
    problem = Problem(model, arguments, engine.target, engine.guide, engine.batch, engine.key)
    variables, mutable, _ = engine.best(run)
    if engine.rows.subsampled:
        log_weights = scores(
            engine.target, engine.guide, variables, mutable, engine.batch, engine.rows, seed=1
        )
        assessment = assess_scores(log_weights, run.converged, run.troubles)
    else:
        assessment = _assess(problem, variables, mutable, run.converged, run.troubles)
    return dict(
        model=model,
        arguments=arguments,
        target=engine.target,
        guide=engine.guide,
        variables=variables,
        mutable=mutable,
        batch=problem.first_batch,
        assessment=assessment,
        stop_reason=run.reason,
        converged=run.converged,
        seconds=time.perf_counter() - began,
        engine=engine,
        run=run,
    )


def of_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], began: float
) -> dict[str, Any]:
    """The solution of a direct solver."""
    return of_candidate(
        Candidate(problem, solution, judge(problem, solution, mutable, "check")), mutable, (), began
    )


def of_candidate(
    candidate: Candidate,
    mutable: dict[str, PyTree],
    history: tuple[Attempt, ...],
    began: float,
) -> dict[str, Any]:
    """The answer of a climb."""
    problem, solution, assessment = candidate
    return dict(
        model=problem.model,
        arguments=problem.arguments,
        target=problem.target,
        guide=problem.guide,
        variables=solution.variables,
        mutable=mutable,
        batch=problem.batch,
        assessment=assessment,
        stop_reason=solution.reason,
        converged=solution.converged,
        seconds=time.perf_counter() - began,
        solver_losses=solution.losses,
        history=history,
    )


def _assess(
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    converged: bool,
    troubles: Sequence[object],
) -> Assessment:
    key = fold_in(problem.key, 5)
    return assess(
        problem.target,
        problem.guide,
        variables,
        mutable,
        key,
        problem.batch,
        converged,
        troubles,
    )
