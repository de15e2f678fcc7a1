"""The search of `guide="auto"`: a sequence of approximations, until the diagnostics pass.

Each stage starts from the best approximation so far; its result is kept if its ELBO is higher by
more than two standard errors. The search ends when the importance weights certify the result, when
time is up, or after the last stage. The result is then checked with short HMC chains, which correct
its draws if they converge; if they cannot, the fallbacks are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vijax.auto.candidate import (
    Candidate,
    StartingPoint,
    check_target,
    check_with_chains,
    is_better,
)
from vijax.auto.history import Attempt
from vijax.contracts import Guide
from vijax.runtime.deadline import time_is_up
from vijax.runtime.progress import stage

_SHOWN = {"learned centering": "learning the centering"}  # as activities
_TITLES = {
    "FullRank": "full-rank Gaussian",
    "LowRank": "low-rank Gaussian",
    "MeanField": "mean-field Gaussian",
    "Plates": "plate-structured Gaussian",
    "Markov": "Markov Gaussian",
    "Laplace": "Laplace approximation",
    "Delta": "maximum a posteriori",
    "Flow": "normalizing flow",
}

Stage = Callable[[StartingPoint, Candidate | None], Candidate | None]


class Stages(NamedTuple):
    """The stages of a search by name, in order. A stage returns `None` if it does not apply.

    Attributes:
        stages: tried until the importance weights certify the result.
        modes: search for other modes, also after a certified result.
        fallbacks: tried if short chains cannot correct the best result. They take seconds each, and
            include the check with short chains.
        correct: whether final states of chains may replace the guide's draws.
    """

    stages: Mapping[str, Stage]
    modes: Mapping[str, Stage] = {}
    fallbacks: Mapping[str, Stage] = {}
    correct: bool = True


def search(
    stages: Stages,
    start: StartingPoint,
    keep: Callable[[Candidate, tuple[Attempt, ...]], None],
) -> tuple[Candidate, tuple[Attempt, ...]]:
    """Runs the stages; returns the best candidate and the record of the stages.

    Args:
        stages: what is tried.
        start: the start of the first.
        keep: called with both whenever there is a better candidate.
    """
    best: Candidate | None = None
    history: list[Attempt] = []
    for name, run in {**stages.stages, **stages.modes}.items():
        if best is not None and _finished(best, certified=name not in stages.modes):
            continue
        found, seconds = _timed(name, run, start, best)
        if found is None:
            continue
        if best is None:  # before more time is spent
            keep(found, ())
            found = check_target(found, start.mutable)
        kept = best is None or is_better(found, best) or _eliminates_modes(found, best)
        if best is None or not _only_searched(found, best):
            history.append(_attempt(name, found, kept, seconds))
        best = found if best is None or kept else best
        keep(best, tuple(history))
    assert best is not None
    if is_unfit(best):
        return best, tuple(history)
    best = check_with_chains(best, start.mutable, stages.correct)
    keep(best, tuple(history))
    for name, run in stages.fallbacks.items():
        if time_is_up() or _status(best) != "approximate":
            break
        found, seconds = _timed(name, run, start, best)
        if found is not None:
            kept = is_better(found, best)
            history.append(_attempt(name, found, kept, seconds))
            best = found if kept else best
            keep(best, tuple(history))
    return best, tuple(history)


def title(guide: Guide) -> str:
    """What a fit of the guide is called while it runs."""
    return _TITLES.get(type(guide).__name__, type(guide).__name__)


def _timed(
    name: str, run: Stage, start: StartingPoint, best: Candidate | None
) -> tuple[Candidate | None, float]:
    """The result of a stage, shown while it runs, and its seconds."""
    began = time.perf_counter()
    shown = title(start.problem.guide) if name == "Gaussian" else _SHOWN.get(name, name)
    with stage(shown) as progress:
        if best is not None:
            progress.note(elbo=round(best.assessment.elbo, 2))
        found = run(start, best)
        if found is None:
            progress.note(result="not applicable")
        else:
            progress.note(elbo=round(found.assessment.elbo, 2), status=_status(found))
    return found, time.perf_counter() - began


def _status(best: Candidate) -> str:
    return best.assessment.diagnosis.status


def _finished(best: Candidate, certified: bool) -> bool:
    """Whether a stage has nothing to add; a stage for more accuracy if the fit is `certified`."""
    return is_unfit(best) or time_is_up() or (certified and _status(best) == "certified")


def is_unfit(candidate: Candidate) -> bool:
    """Whether no approximation helps: the posterior is improper, or its gradient is wrong."""
    diagnostics = candidate.assessment.diagnostics
    return bool(diagnostics.improper or diagnostics.wrong_gradient)


def _only_searched(found: Candidate, best: Candidate) -> bool:
    """Whether this is the same solution after a search for modes that found none."""
    return found.solution.variables is best.solution.variables and not best.solution.alternatives


def _eliminates_modes(found: Candidate, best: Candidate) -> bool:
    """Whether this is the same solution, with fewer alternative modes or a further search."""
    new, old = found.solution, best.solution
    fewer = len(new.alternatives) < len(old.alternatives) or new.unseen != old.unseen
    return new.variables is old.variables and fewer


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
