"""The stages of `guide="auto"` on full data: Gaussians, centering, mixture of modes, flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from vijax.auto.candidate import (
    Candidate,
    StartingPoint,
    check_with_chains,
    is_better,
    unassessed,
    warm_start_solver,
)
from vijax.auto.centering import DENSE_DIM, ROUNDS, learn_centering
from vijax.auto.modes import modes
from vijax.auto.search import Stages
from vijax.contracts import Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance as weights
from vijax.engine.initialization import initial_params, origin
from vijax.engine.problem import Problem
from vijax.guides import Flow, FullRank, LowRank, Plates
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.mixture import MixtureParams
from vijax.guides.structured.plates import plates_affordable
from vijax.model.centering import noncentered_weights, with_centering
from vijax.runtime.deadline import partial_results
from vijax.runtime.keys import fold_in
from vijax.solvers import FlowDescent, default_solver
from vijax.solvers.gaussians.conversion import location, to_params
from vijax.solvers.gaussians.dense import Gaussian

PLATES, GAUSSIAN, CENTERING = "plate-structured Gaussian", "Gaussian", "learned centering"
MODES, FLOW = "mixture of modes", "normalizing flow"
RESTART = "restart where chains ended"
_FLOW_DIM = 50  # largest dimension in which flows are fast enough
_FLOW_ELEMENTS = 2**14  # limit for the data elements of one log density
_FLOW_CYCLES = ((10, 4), (25, 3), (50, 2))  # (largest dimension, cycles): a few seconds each


def plates(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A Gaussian with the model's plate structure, if the dimension rules out a dense one."""
    target, guide = start.problem.target, Plates()
    if start.problem.guide == FullRank() or not plates_affordable(target.space):
        return None
    z = target.space.host_unravel(location(start.variables.guide, target.space))
    params = initial_params(target, guide, fold_in(start.problem.key, 41), z, start.problem.batch)
    problem = dataclasses.replace(start.problem, guide=guide)
    return gaussian(
        start._replace(problem=problem, variables=start.variables._replace(guide=params)), None
    )


def gaussian(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A single Gaussian, with all hierarchical sites non-centered."""
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

    def keep(found: Callable[[], Solution]) -> None:
        if best is None:
            start.keep(lambda: unassessed(problem, found()))

    with partial_results(keep):
        solution = solver.solve(fold_in(problem.key, 4), *state)
    return start.candidate(problem, solution)


def centering(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The Gaussian with learned centering weights of the hierarchical sites."""
    if best is None or not best.problem.batch.centering or start.problem.batch.centering:
        return None
    for round_ in range(ROUNDS):
        moved = learn_centering(best.problem, best.solution.variables, start.mutable)
        if moved is None:
            break
        problem, variables = moved
        solution = _refit(problem, variables, 40 + round_)
        if solution.unseen is None and not best.solution.alternatives:
            solution = solution._replace(unseen=best.solution.unseen)
        found = start.candidate(problem, solution)
        if not is_better(found, best):
            return found if round_ == 0 else best
        best = found
    return best


def restart(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The Gaussian and its modes again, from where the chains ended far from the guide."""
    if best is None or not isinstance(best.problem.guide, (FullRank, LowRank)):
        return None
    check, draws = best.assessment.check, best.assessment.draws
    if check is None or not check.far or not np.isfinite([check.mean, check.log_sd]).all():
        return None
    problem, variables = best.problem, best.solution.variables
    flat = weights.flatten(problem.target.space, draws.z)
    sd = flat.std(axis=0) * np.exp(check.log_sd)
    ended = Gaussian(flat.mean(axis=0) + check.mean * sd, np.diag(sd))
    params = to_params(variables.guide, ended, problem.target.space)
    solution = _refit(problem, variables._replace(guide=params), 61)
    found = start.candidate(problem, solution._replace(unseen=None))
    return check_with_chains(modes(start, found) or found, start.mutable, correct=True)


def flow(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A normalizing flow on the Gaussian, for few dimensions, a single mode and a cheap model.

    For a mixture along one connected mode, on its largest component; a flow does not reach modes
    that are separate, but may have a higher ELBO without them.
    """
    if best is None or best.solution.alternatives:
        return None
    problem, variables = best.problem, best.solution.variables
    if best.connected and isinstance(variables.guide, MixtureParams):
        largest = int(np.argmax(variables.guide.logits))
        variables = variables._replace(guide=variables.guide.components[largest])
    target, guide = problem.target, Flow(base=FullRank())
    small = 1 < target.space.dim <= _FLOW_DIM and not target.structure.sequential
    cheap = Kernel(target, problem.batch, variables.model).num_elements <= _FLOW_ELEMENTS
    if not (small and cheap and isinstance(variables.guide, FullRankParams)):
        return None
    key = fold_in(problem.key, 60)
    identity = initial_params(target, guide, key, origin(target.space), problem.batch)
    params = identity._replace(base=variables.guide)
    cycles = next(cycles for dim, cycles in _FLOW_CYCLES if target.space.dim <= dim)
    solver = FlowDescent(max_cycles=cycles)
    solution = solver.solve(key, target, guide, variables._replace(guide=params), problem.batch)
    problem = dataclasses.replace(problem, guide=guide)
    solution = solution._replace(unseen=best.solution.unseen)
    return check_with_chains(start.candidate(problem, solution), start.mutable, correct=True)


def _refit(problem: Problem, variables: Variables, number: int) -> Solution:
    """The solution in new coordinates, started from the transformed Gaussian if dense."""
    target, guide, key = problem.target, problem.guide, fold_in(problem.key, number)
    if target.space.dim <= DENSE_DIM and isinstance(guide, (FullRank, LowRank)):
        assert problem.all_rows is not None
        return warm_start_solver(problem).solve(key, target, guide, variables, problem.all_rows)
    solver = default_solver(guide, target.space.dim)
    assert solver is not None
    return solver.solve(key, target, guide, variables, problem.batch)


AUTO = Stages(
    {PLATES: plates, GAUSSIAN: gaussian, CENTERING: centering},
    {MODES: modes},
    {RESTART: restart, FLOW: flow},
)
# a guide named by the user is not replaced, and its draws are not corrected
NAMED = Stages({GAUSSIAN: gaussian, CENTERING: centering}, correct=False)
