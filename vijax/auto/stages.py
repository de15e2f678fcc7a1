"""The ladder behind `guide="auto"`: from the cheapest guide upwards, for as long as it pays.

A rung starts from the best answer so far and is kept if its ELBO is better by more than two
standard errors. The climb ends where the importance weights find nothing to object to, where time
is up, or at the top. Short chains then judge the answer, and mend its draws where they can.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vijax.auto.candidate import Candidate, Climb, beside, better
from vijax.auto.centering import DENSE_DIM, ROUNDS, learned
from vijax.auto.history import Attempt
from vijax.auto.modes import modes
from vijax.contracts import PyTree, Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics.assessment import ask_chains
from vijax.engine.initialization import first_params, origin
from vijax.engine.problem import Problem
from vijax.guides import Flow, FullRank, LowRank, Plates
from vijax.guides.gaussian.normal import FullRankParams
from vijax.guides.structured.plates import suits
from vijax.model.centering import with_weights, zeros
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import Progress
from vijax.solvers import FlowDescent, default_solver
from vijax.solvers.gaussians.conversion import location

INTERRUPTED = "interrupted by Ctrl-C"
_FLOW_DIM = 50  # beyond, a flow takes long to learn what chains cannot mend
_FLOW_ELEMENTS = 2**14  # numbers that one log density may read
_FLOW_CYCLES = ((10, 4), (25, 3), (50, 2))  # up to so many dimensions: a few seconds each


Rung = Callable[[Climb, "Candidate | None"], "Candidate | None"]


def plates(climb: Climb, best: Candidate | None) -> Candidate | None:
    """A Gaussian along the model's plates, where a dense one has too many coordinates."""
    target, guide = climb.problem.target, Plates()
    if climb.problem.guide == FullRank() or not suits(target.space):
        return None
    where = target.space.host_unravel(location(climb.variables.guide, target.space))
    params = first_params(target, guide, fold_in(climb.problem.key, 41), where, climb.problem.batch)
    problem = dataclasses.replace(climb.problem, guide=guide)
    return gaussian(Climb(problem, climb.variables._replace(guide=params), climb.mutable), None)


def gaussian(climb: Climb, best: Candidate | None) -> Candidate | None:
    """One Gaussian; where there are hierarchical sites, with all of them non-centered."""
    if best is not None and best.solution.converged:
        return None
    problem = climb.problem
    hierarchical = problem.target.structure.hierarchical
    if hierarchical and not problem.batch.centering:
        batch = with_weights(problem.batch, zeros(problem.target))
        problem = dataclasses.replace(problem, batch=batch)
    solver = default_solver(problem.guide, problem.target.space.dim)
    assert solver is not None
    state = (problem.target, problem.guide, climb.variables, problem.batch)
    return climb.candidate(problem, solver.solve(fold_in(problem.key, 4), *state))


def centering(climb: Climb, best: Candidate | None) -> Candidate | None:
    """Hierarchical sites centered as far as their data determine them."""
    if best is None or not best.problem.batch.centering or climb.problem.batch.centering:
        return None
    for round_ in range(ROUNDS):
        moved = learned(best.problem, best.solution.variables, climb.mutable)
        if moved is None:
            break
        problem, variables = moved
        found = climb.candidate(problem, _again(problem, variables, 40 + round_))
        if not better(found, best):
            return found if round_ == 0 else best
        best = found
    return best


def flow(climb: Climb, best: Candidate | None) -> Candidate | None:
    """The Gaussian, bent by a flow: few dimensions, one mode, and a model that costs little."""
    if best is None or best.solution.alternatives:
        return None
    problem, variables = best.problem, best.solution.variables
    target, guide = problem.target, Flow(base=FullRank())
    small = 1 < target.space.dim <= _FLOW_DIM and not target.structure.sequential
    cheap = Kernel(target, problem.batch, variables.model).num_elements <= _FLOW_ELEMENTS
    if not (small and cheap and isinstance(variables.guide, FullRankParams)):
        return None
    key = fold_in(problem.key, 60)
    straight = first_params(target, guide, key, origin(target.space), problem.batch)
    start = straight._replace(base=variables.guide)
    cycles = next(cycles for dim, cycles in _FLOW_CYCLES if target.space.dim <= dim)
    solver = FlowDescent(max_cycles=cycles)
    solution = solver.solve(key, target, guide, variables._replace(guide=start), problem.batch)
    problem = dataclasses.replace(problem, guide=guide)
    return _checked(climb.candidate(problem, solution), climb.mutable, mend=True)


class Ladder(NamedTuple):
    """Rungs by name, in order. One answers `None` where it does not apply.

    Attributes:
        rungs: tried until the weights find nothing to object to.
        last: tried where chains cannot mend the best of these: seconds each. They ask the chains
            themselves.
        mends: whether chains may stand in for a guide's draws.
    """

    rungs: Mapping[str, Rung]
    last: Mapping[str, Rung]
    mends: bool = True


AUTO = Ladder(
    {"plates": plates, "gaussian": gaussian, "centering": centering, "modes": modes}, {"flow": flow}
)
# A guide that the user has named stays what it is, and so do its draws.
NAMED = Ladder({"gaussian": gaussian, "centering": centering}, {}, mends=False)


def climb(
    ladder: Ladder,
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    max_seconds: float | None,
    bar: Progress,
) -> tuple[Candidate, tuple[Attempt, ...]]:
    """Climbs a ladder from its first guide; see the module."""
    began = time.perf_counter()
    start = Climb(problem, variables, mutable)
    best: Candidate | None = None
    history: list[Attempt] = []
    try:
        for name, rung in ladder.rungs.items():
            if best is not None and _content(best):
                break
            since = time.perf_counter()
            if best is not None and max_seconds is not None and since - began > max_seconds:
                break
            bar.note(name if best is None else f"ELBO {best.assessment.elbo:.2f}, {name}")
            found = rung(start, best)
            if found is None:
                continue
            kept = best is None or better(found, best) or _settles(found, best)
            history.append(_attempt(name, found, kept, time.perf_counter() - since))
            best = found if kept else best
        assert best is not None
        bar.note(f"ELBO {best.assessment.elbo:.2f}, chains")
        best = _checked(best, mutable, ladder.mends)
        for name, rung in ladder.last.items():
            since = time.perf_counter()
            late = max_seconds is not None and since - began > max_seconds
            if late or best.assessment.verdict.status != "approximate":
                break
            bar.note(f"ELBO {best.assessment.elbo:.2f}, {name}")
            found = rung(start, best)
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
    bar.note(f"ELBO {best.assessment.elbo:.2f}, {best.assessment.verdict.status}")
    return best, tuple(history)


def _checked(best: Candidate, mutable: dict[str, PyTree], mend: bool) -> Candidate:
    """A candidate that short chains have checked, and mended where they can and may."""
    fitted = best.problem.fitted(best.solution.variables, mutable)
    return best._replace(assessment=ask_chains(best.assessment, fitted, mend))


def _content(best: Candidate) -> bool:
    return best.assessment.verdict.status == "certified"


def _settles(found: Candidate, best: Candidate) -> bool:
    """Whether the same answer is now known to be all there is: other modes hold nothing."""
    same = found.solution.variables is best.solution.variables
    return same and len(found.solution.alternatives) < len(best.solution.alternatives)


def _again(problem: Problem, variables: Variables, number: int) -> Solution:
    """Where the solver ends that goes on from a Gaussian in new coordinates."""
    target, guide, key = problem.target, problem.guide, fold_in(problem.key, number)
    if target.space.dim <= DENSE_DIM and isinstance(guide, (FullRank, LowRank)):
        assert problem.all_rows is not None
        return beside(problem).solve(key, target, guide, variables, problem.all_rows)
    solver = default_solver(guide, target.space.dim)
    assert solver is not None
    return solver.solve(key, target, guide, variables, problem.batch)


def _attempt(rung: str, found: Candidate, kept: bool, seconds: float) -> Attempt:
    assessment = found.assessment
    khat = math.nan if assessment.importance is None else assessment.importance.khat
    return Attempt(
        rung,
        type(found.problem.guide).__name__,
        assessment.elbo,
        assessment.elbo_se,
        khat,
        assessment.verdict.status,
        kept,
        seconds,
    )
