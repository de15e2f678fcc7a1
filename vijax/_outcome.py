"""What a fit that has ended comes to: the fields of its `Posterior`, assessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vijax._contracts import PyTree, Solution
from vijax._engine import Engine, Run, knows_all_rows, scores, shares_all
from vijax._history import Attempt
from vijax._keys import fold_in
from vijax._ladder import Candidate, judge
from vijax._problem import Problem
from vijax.diagnostics.assess import Chains, assess, assess_scores
from vijax.diagnostics.weights import num_elements
from vijax.model import Arguments

_SMALL_DATA = 2**22  # numbers; all of them can be read a few thousand times in seconds


def of_run(
    model: Callable[..., Any],
    arguments: Arguments,
    engine: Engine,
    run: Run,
    began: float,
    chains: Chains = "check",
) -> dict[str, Any]:
    """The best candidate of a run of gradient steps that has ended."""
    problem = Problem(model, arguments, engine.target, engine.guide, engine.batch, engine.key)
    variables, mutable, _ = engine.best(run)
    small = num_elements(engine.batch, engine.target.space.dim) <= _SMALL_DATA
    if engine.rows.subsampled and not (small and shares_all(engine.target)):
        log_weights = scores(
            engine.target, engine.guide, variables, mutable, engine.batch, engine.rows, seed=1
        )
        assessment = assess_scores(log_weights, run.converged, run.troubles)
    else:
        assessment = assess(
            problem.target,
            problem.guide,
            variables,
            mutable,
            fold_in(problem.key, 5),
            problem.batch,
            run.converged,
            run.troubles,
            chains=chains,
        )
    return dict(
        model=model,
        arguments=arguments,
        target=engine.target,
        guide=engine.guide,
        variables=variables,
        mutable=mutable,
        batch=problem.batch if knows_all_rows(engine.target) else problem.first_batch,
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
