"""`guide="auto"` as a search: one approximation after the other, until the diagnostics pass.

A stage starts from the best answer so far, and its own is kept if its ELBO is higher by more than
two standard errors. The search ends where the importance weights certify the answer, where time
is up, or after the last stage. Short HMC chains then check the answer, and correct its draws
where they can; where they cannot, the fallbacks are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vijax.auto.candidate import Candidate, StartingPoint, better, chain_checked
from vijax.auto.history import Attempt
from vijax.contracts import PyTree, Solution, Variables
from vijax.engine.problem import Problem
from vijax.runtime.progress import Progress

INTERRUPTED = "interrupted by Ctrl-C"

Stage = Callable[[StartingPoint, Candidate | None], Candidate | None]


class Stages(NamedTuple):
    """Stages by name, in order. One returns `None` where it does not apply.

    Attributes:
        stages: tried until the importance weights certify the answer.
        fallbacks: tried where short chains cannot correct the best answer of these. They take
            seconds each, and run the chains themselves.
        correct: whether final states of chains may replace the guide's draws.
    """

    stages: Mapping[str, Stage]
    fallbacks: Mapping[str, Stage] = {}
    correct: bool = True


def search(
    stages: Stages,
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    max_seconds: float | None,
    bar: Progress,
) -> tuple[Candidate, tuple[Attempt, ...]]:
    """Runs the stages, and returns the best answer and what was tried; see the module."""
    began = time.perf_counter()
    start = StartingPoint(problem, variables, mutable)
    best: Candidate | None = None
    history: list[Attempt] = []
    try:
        for name, stage in stages.stages.items():
            if best is not None and _status(best) == "certified":
                break
            since = time.perf_counter()
            if best is not None and max_seconds is not None and since - began > max_seconds:
                break
            bar.note(name if best is None else f"ELBO {best.assessment.elbo:.2f}, {name}")
            found = stage(start, best)
            if found is None:
                continue
            kept = best is None or better(found, best) or _rules_modes_out(found, best)
            history.append(_attempt(name, found, kept, time.perf_counter() - since))
            best = found if kept else best
        assert best is not None
        bar.note(f"ELBO {best.assessment.elbo:.2f}, chains")
        best = chain_checked(best, mutable, stages.correct)
        for name, stage in stages.fallbacks.items():
            since = time.perf_counter()
            late = max_seconds is not None and since - began > max_seconds
            if late or _status(best) != "approximate":
                break
            bar.note(f"ELBO {best.assessment.elbo:.2f}, {name}")
            found = stage(start, best)
            if found is not None:
                kept = better(found, best)
                history.append(_attempt(name, found, kept, time.perf_counter() - since))
                best = found if kept else best
    except KeyboardInterrupt:
        if best is None:
            solution = Solution(variables, INTERRUPTED, False, 0)
            return start.candidate(problem, solution), ()
        reason = f"{INTERRUPTED}; {best.solution.reason}"
        best = best._replace(solution=best.solution._replace(reason=reason, converged=False))
    bar.note(f"ELBO {best.assessment.elbo:.2f}, {_status(best)}")
    return best, tuple(history)


def _status(best: Candidate) -> str:
    return best.assessment.diagnosis.status


def _rules_modes_out(found: Candidate, best: Candidate) -> bool:
    """Whether this is the same answer, with fewer other modes that may hold evidence."""
    same = found.solution.variables is best.solution.variables
    return same and len(found.solution.alternatives) < len(best.solution.alternatives)


def _attempt(stage: str, found: Candidate, kept: bool, seconds: float) -> Attempt:
    assessment = found.assessment
    khat = math.nan if assessment.importance is None else assessment.importance.khat
    return Attempt(
        stage,
        type(found.problem.guide).__name__,
        assessment.elbo,
        assessment.elbo_se,
        khat,
        assessment.diagnosis.status,
        kept,
        seconds,
    )
