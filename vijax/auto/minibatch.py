"""`guide="auto"` on batches: what steps on a few rows have found, refined on all of them.

Steps on batches soon know where the posterior is, and its covariance last: each of its numbers is
measured by gradients with the noise of a batch (docs/decisions.md). The curvature of all rows tells
every one of them at once, at the price of `dim` passes. Steps are therefore taken with a mean-field
guide, whose few numbers batches can tell, and Newton's method goes on from there on all rows, where
these are not too many; at last with hierarchical sites in coordinates that this has told. Weights
on all rows assess_solution what it finds, and where they object the steps themselves. Rows that are not in
memory are read from end to end some ten or twenty times.
"""

from __future__ import annotations

import dataclasses

from vijax.auto.candidate import Candidate, StartingPoint
from vijax.auto.centering import DENSE_DIM
from vijax.auto.search import Stages
from vijax.auto.stages import centering
from vijax.contracts import Blocks, PyTree, Solution, Variables
from vijax.diagnostics.importance import num_elements
from vijax.engine.common_draws import shares_all
from vijax.engine.initialization import first_params, origin
from vijax.engine.problem import Problem
from vijax.guides import FullRank, MeanField
from vijax.model.centering import centered_weights, with_centering
from vijax.runtime.keys import fold_in
from vijax.solvers import LaplaceSolver, VariationalNewton
from vijax.solvers.default import dense_gaussian
from vijax.solvers.gaussians.conversion import from_params, to_params

_HESSIANS = 3  # and about as much again for weights
_MATCHING = 8000  # evaluations that the Gaussian of largest ELBO takes
_PASSES = (20, 250)  # over rows that are not in memory, for one and for the other
_ELEMENTS = 2**36  # numbers that either may read: ten to thirty seconds
_NEWTON_STEPS = 8


def applies(problem: Problem, parameters: dict[str, PyTree], mutable: dict[str, PyTree]) -> bool:
    """Whether a fit on batches is to be refined: all rows can be read often enough.

    Not where the model has parameters or a state of its own, which steps alone move.
    """
    target, dim = problem.target, problem.target.space.dim
    if not (problem.schedule.subsampled and shares_all(target) and target.explorable):
        return False
    if problem.all_rows is None or parameters or mutable:
        return False
    if target.structure.sequential or dim > DENSE_DIM:
        return False
    return _affordable(problem, _HESSIANS * (dim + 32), _PASSES[0])


def _affordable(problem: Problem, points: int, passes: int) -> bool:
    """Whether the log density of all rows can be taken so often, in so many passes over them."""
    data = problem.all_rows
    assert data is not None
    cost = points * num_elements(data, problem.target.space.dim)
    if isinstance(data, Blocks):
        cost += passes * data.effort * data.plate.size
    return cost <= _ELEMENTS


def with_mean_field(problem: Problem) -> Problem:
    """The problem with the guide of the steps."""
    return dataclasses.replace(problem, guide=MeanField())


def refinement(steps: Solution) -> Stages:
    """The stages from where the steps have ended.

    The steps' own answer is weighed second, as what Newton's method finds is seldom worse, and
    weighing takes as long as finding it.
    """

    def found(start: StartingPoint, best: Candidate | None) -> Candidate:
        return start.candidate(start.problem, steps)

    stages = {"laplace": _laplace, "steps": found, "gaussian": _gaussian, "centering": _centered}
    return Stages(stages, {})


def _laplace(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The Gaussian at the mode, by Newton's method; `None` where there is no mode."""
    solver = LaplaceSolver(mode=None, newton_steps=_NEWTON_STEPS)
    problem, solution = _solved(solver, start, best, 51)
    return start.candidate(problem, solution) if solution.converged else None


def _gaussian(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The Gaussian of largest ELBO."""
    if not _affordable(start.problem, _MATCHING, _PASSES[1]):
        return None
    return start.candidate(*_solved(dense_gaussian(None), start, best, 52))


def _centered(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The same with hierarchical sites centered as far as their data determine them."""
    if (
        best is None
        or best.problem.guide != FullRank()
        or not best.problem.target.structure.hierarchical
    ):
        return None
    if not _affordable(start.problem, _MATCHING, _PASSES[1]):
        return None
    batch = with_centering(best.problem.batch, centered_weights(best.problem.target))
    own = best._replace(problem=dataclasses.replace(best.problem, batch=batch))
    found = centering(start, own)
    return None if found is own else found


def _solved(
    solver: LaplaceSolver | VariationalNewton,
    start: StartingPoint,
    best: Candidate | None,
    number: int,
) -> tuple[Problem, Solution]:
    """A full-rank Gaussian, by a solver that starts from the best so far, or from the steps."""
    problem, variables = start.problem, start.variables
    if best is not None:
        problem, variables = best.problem, best.solution.variables
    problem = dataclasses.replace(problem, guide=FullRank())
    target, key = problem.target, fold_in(problem.key, number)
    shape = first_params(target, problem.guide, key, origin(target.space), problem.batch)
    params = to_params(shape, from_params(variables.guide, target.space), target.space)
    at = Variables(params, variables.model)
    assert problem.all_rows is not None
    return problem, solver.solve(key, target, problem.guide, at, problem.all_rows)
