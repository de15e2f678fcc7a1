"""The stages of `guide="auto"` on all data: Gaussians, centering, a mixture of modes, a flow."""

from __future__ import annotations

import dataclasses

from vijax.auto.candidate import Candidate, StartingPoint, better, chain_checked, warm_started
from vijax.auto.centering import DENSE_DIM, ROUNDS, learned
from vijax.auto.modes import modes
from vijax.auto.search import Stages
from vijax.contracts import Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.engine.initialization import first_params, origin
from vijax.engine.problem import Problem
from vijax.guides import Flow, FullRank, LowRank, Plates
from vijax.guides.gaussian.normal import FullRankParams
from vijax.guides.structured.plates import suits
from vijax.model.centering import noncentered_weights, with_centering
from vijax.runtime.keys import fold_in
from vijax.solvers import FlowDescent, default_solver
from vijax.solvers.gaussians.conversion import location

_FLOW_DIM = 50  # beyond, a flow takes long to learn what chains cannot correct
_FLOW_ELEMENTS = 2**14  # numbers that one log density may read
_FLOW_CYCLES = ((10, 4), (25, 3), (50, 2))  # up to so many dimensions: a few seconds each


def plates(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A Gaussian along the model's plates, where a dense one has too many coordinates."""
    target, guide = start.problem.target, Plates()
    if start.problem.guide == FullRank() or not suits(target.space):
        return None
    where = target.space.host_unravel(location(start.variables.guide, target.space))
    params = first_params(target, guide, fold_in(start.problem.key, 41), where, start.problem.batch)
    problem = dataclasses.replace(start.problem, guide=guide)
    return gaussian(
        StartingPoint(problem, start.variables._replace(guide=params), start.mutable), None
    )


def gaussian(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """One Gaussian; where there are hierarchical sites, with all of them non-centered."""
    if best is not None and best.solution.converged:
        return None
    problem = start.problem
    hierarchical = problem.target.structure.hierarchical
    if hierarchical and not problem.batch.centering:
        batch = with_centering(problem.batch, noncentered_weights(problem.target))
        problem = dataclasses.replace(problem, batch=batch)
    solver = default_solver(problem.guide, problem.target.space.dim)
    assert solver is not None
    state = (problem.target, problem.guide, start.variables, problem.batch)
    return start.candidate(problem, solver.solve(fold_in(problem.key, 4), *state))


def centering(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """Hierarchical sites centered as far as their data determine them."""
    if best is None or not best.problem.batch.centering or start.problem.batch.centering:
        return None
    for round_ in range(ROUNDS):
        moved = learned(best.problem, best.solution.variables, start.mutable)
        if moved is None:
            break
        problem, variables = moved
        found = start.candidate(problem, _solved_again(problem, variables, 40 + round_))
        if not better(found, best):
            return found if round_ == 0 else best
        best = found
    return best


def flow(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A flow on top of the Gaussian: few dimensions, one mode, and a cheap model."""
    if best is None or best.solution.alternatives:
        return None
    problem, variables = best.problem, best.solution.variables
    target, guide = problem.target, Flow(base=FullRank())
    small = 1 < target.space.dim <= _FLOW_DIM and not target.structure.sequential
    cheap = Kernel(target, problem.batch, variables.model).num_elements <= _FLOW_ELEMENTS
    if not (small and cheap and isinstance(variables.guide, FullRankParams)):
        return None
    key = fold_in(problem.key, 60)
    identity = first_params(target, guide, key, origin(target.space), problem.batch)
    params = identity._replace(base=variables.guide)
    cycles = next(cycles for dim, cycles in _FLOW_CYCLES if target.space.dim <= dim)
    solver = FlowDescent(max_cycles=cycles)
    solution = solver.solve(key, target, guide, variables._replace(guide=params), problem.batch)
    problem = dataclasses.replace(problem, guide=guide)
    return chain_checked(start.candidate(problem, solution), start.mutable, correct=True)


def _solved_again(problem: Problem, variables: Variables, number: int) -> Solution:
    """The solution of the solver that starts from a Gaussian in new coordinates."""
    target, guide, key = problem.target, problem.guide, fold_in(problem.key, number)
    if target.space.dim <= DENSE_DIM and isinstance(guide, (FullRank, LowRank)):
        assert problem.all_rows is not None
        return warm_started(problem).solve(key, target, guide, variables, problem.all_rows)
    solver = default_solver(guide, target.space.dim)
    assert solver is not None
    return solver.solve(key, target, guide, variables, problem.batch)


AUTO = Stages(
    {"plates": plates, "gaussian": gaussian, "centering": centering, "modes": modes}, {"flow": flow}
)
# a guide that the user has named stays what it is, and so do its draws
NAMED = Stages({"gaussian": gaussian, "centering": centering}, correct=False)
