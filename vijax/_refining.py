"""`guide="auto"` on batches: what steps on a few rows have found, refined on all of them.

Steps on batches soon know where the posterior is, and its covariance last: each of its numbers is
measured by gradients with the noise of a batch (docs/decisions.md). The curvature of all rows tells
every one of them at once, at the price of `dim` passes. Steps are therefore taken with a mean-field
guide, whose few numbers batches can tell, and Newton's method goes on from there on all rows, where
these are in memory and not too many. Importance weights on all rows judge both.
"""

from __future__ import annotations

import dataclasses

from vijax._candidate import Candidate, Climb
from vijax._centring import DENSE_DIM
from vijax._contracts import PyTree, Solution, Solver, Variables
from vijax._keys import fold_in
from vijax._ladder import Ladder
from vijax._problem import Problem
from vijax._scores import shares_all
from vijax._starts import first_params, origin
from vijax.diagnostics.weights import num_elements
from vijax.guides import FullRank, MeanField
from vijax.solvers import LaplaceSolver
from vijax.solvers.conversion import from_params, to_params
from vijax.solvers.default import dense_gaussian

_PASSES = 3  # Hessians, and about as much again for weights
_MATCHING = 8000  # evaluations that the Gaussian of largest ELBO takes
_ELEMENTS = 2**36  # numbers that either may read: ten to thirty seconds
_NEWTON_STEPS = 8


def suits(problem: Problem, parameters: dict[str, PyTree], mutable: dict[str, PyTree]) -> bool:
    """Whether a fit on batches is to be refined: all rows can be read often enough.

    Not where the model has parameters or a state of its own, which steps alone move.
    """
    target, dim = problem.target, problem.target.space.dim
    if not (problem.rows.subsampled and shares_all(target) and target.explorable):
        return False
    if problem.arguments.sources or parameters or mutable:
        return False
    if target.sequential or dim > DENSE_DIM:
        return False
    return _PASSES * (dim + 32) * num_elements(problem.batch, dim) <= _ELEMENTS


def coarse(problem: Problem) -> Problem:
    """The problem with the guide of the steps."""
    return dataclasses.replace(problem, guide=MeanField())


def refining(steps: Solution) -> Ladder:
    """The rungs from where the steps have ended."""

    def found(climb: Climb, best: Candidate | None) -> Candidate:
        return climb.candidate(climb.problem, steps)

    return Ladder({"steps": found, "laplace": _laplace, "gaussian": _gaussian}, {})


def _laplace(climb: Climb, best: Candidate | None) -> Candidate | None:
    """The Gaussian at the mode, by Newton's method."""
    return _solved(LaplaceSolver(mode=None, newton_steps=_NEWTON_STEPS), climb, best, 51)


def _gaussian(climb: Climb, best: Candidate | None) -> Candidate | None:
    """The Gaussian of largest ELBO."""
    problem = climb.problem
    if _MATCHING * num_elements(problem.batch, problem.target.space.dim) > _ELEMENTS:
        return None
    return _solved(dense_gaussian(None), climb, best, 52)


def _solved(solver: Solver, climb: Climb, best: Candidate | None, number: int) -> Candidate | None:
    """A full-rank Gaussian, by a solver that starts from the best so far."""
    if best is None:
        return None
    problem = dataclasses.replace(best.problem, guide=FullRank())
    target, variables, key = problem.target, best.solution.variables, fold_in(problem.key, number)
    shape = first_params(target, problem.guide, key, origin(target.space), problem.batch)
    params = to_params(shape, from_params(variables.guide, target.space), target.space)
    state = (target, problem.guide, Variables(params, variables.model), problem.batch)
    return climb.candidate(problem, solver.solve(key, *state))
