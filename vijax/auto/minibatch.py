"""`guide="auto"` on minibatches: mean-field gradient steps, refined by Newton on the full data.

Minibatch gradients find the location of the posterior quickly, its covariance slowly: every entry
is estimated from gradients with minibatch noise (docs/decisions.md). The Hessian on the full data
determines the covariance at the cost of `dim` passes. Gradient steps are therefore taken with a
mean-field guide. If full-data evaluations are affordable, Newton's method continues from there,
finally with a learned centering of hierarchical sites. Its solutions, and that of the gradient
steps if these are inaccurate, are assessed by importance weights on the full data. Rows that are
not in memory are read in full some ten or twenty times.
"""

from __future__ import annotations

import dataclasses

from vijax.auto.candidate import Candidate, StartingPoint
from vijax.auto.centering import DENSE_DIM
from vijax.auto.modes import modes
from vijax.auto.search import Stages
from vijax.auto.stages import CENTERING, GAUSSIAN, MODES, centering
from vijax.contracts import Blocks, PyTree, Solution, Variables
from vijax.diagnostics.importance import num_elements
from vijax.engine.common_draws import supports_full_data
from vijax.engine.initialization import initial_params, origin
from vijax.engine.problem import Problem
from vijax.guides import FullRank, MeanField
from vijax.model.centering import centered_weights, with_centering
from vijax.runtime.keys import fold_in
from vijax.solvers import LaplaceSolver, VariationalNewton
from vijax.solvers.default import dense_gaussian
from vijax.solvers.gaussians.conversion import from_params, to_params

_NUM_HESSIANS = 3  # of Newton's method; importance weights cost about as much again
_ELBO_EVALUATIONS = 8000  # evaluations to maximize the ELBO of a Gaussian
_PASSES = (20, 250)  # passes over rows not in memory: Newton's method, maximization of the ELBO
_MAX_ELEMENTS = 2**36  # limit for the data elements read by either: ten to thirty seconds
_NEWTON_STEPS = 8
LAPLACE, GRADIENT_STEPS = "Laplace", "gradient steps"


def can_refine(problem: Problem, parameters: dict[str, PyTree], mutable: dict[str, PyTree]) -> bool:
    """Whether a minibatch fit can be refined: enough full-data evaluations are affordable.

    Not for models with `param` sites or mutable state, which only gradient steps update.
    """
    target, dim = problem.target, problem.target.space.dim
    if not (problem.schedule.subsampled and supports_full_data(target) and target.differentiable):
        return False
    if problem.all_rows is None or parameters or mutable or target.structure.bounds:
        return False
    if target.structure.sequential or dim > DENSE_DIM or target.space.networks.sites:
        return False
    return _affordable(problem, _NUM_HESSIANS * (dim + 32), _PASSES[0])


def _affordable(problem: Problem, points: int, passes: int) -> bool:
    """Whether `points` full-data evaluations of the log density, in `passes`, are affordable."""
    data = problem.all_rows
    assert data is not None
    cost = points * num_elements(data, problem.target.space.dim)
    if isinstance(data, Blocks):
        cost += passes * data.read_cost * data.plate.size
    return cost <= _MAX_ELEMENTS


def with_mean_field(problem: Problem) -> Problem:
    """The problem with the mean-field guide of the gradient steps."""
    return dataclasses.replace(problem, guide=MeanField())


def refinement_stages(steps: Solution) -> Stages:
    """The stages that refine the solution of the gradient steps.

    That solution itself is assessed second: the Laplace approximation is seldom worse, and
    importance weights cost as much as computing it.
    """

    def gradient_steps(start: StartingPoint, best: Candidate | None) -> Candidate:
        return start.candidate(start.problem, steps)

    stages = {
        LAPLACE: _laplace,
        GRADIENT_STEPS: gradient_steps,
        GAUSSIAN: _gaussian,
        CENTERING: _centered,
    }
    return Stages(stages, {MODES: modes})


def _laplace(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """Laplace approximation by Newton's method; `None` if it does not find a mode."""
    solver = LaplaceSolver(mode=None, newton_steps=_NEWTON_STEPS)
    problem, solution = _solved(solver, start, best, 51)
    return start.candidate(problem, solution) if solution.converged else None


def _gaussian(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The full-rank Gaussian that maximizes the ELBO."""
    if not _affordable(start.problem, _ELBO_EVALUATIONS, _PASSES[1]):
        return None
    return start.candidate(*_solved(dense_gaussian(None), start, best, 52))


def _centered(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """The full-rank Gaussian that maximizes the ELBO, with learned centering."""
    if (
        best is None
        or best.problem.guide != FullRank()
        or not best.problem.target.structure.hierarchical
    ):
        return None
    if not _affordable(start.problem, _ELBO_EVALUATIONS, _PASSES[1]):
        return None
    batch = with_centering(best.problem.batch, centered_weights(best.problem.target))
    centered = best._replace(problem=dataclasses.replace(best.problem, batch=batch))
    found = centering(start, centered)
    return None if found is centered else found


def _solved(
    solver: LaplaceSolver | VariationalNewton,
    start: StartingPoint,
    best: Candidate | None,
    number: int,
) -> tuple[Problem, Solution]:
    """The solver's full-rank Gaussian, from the best candidate or the gradient steps."""
    problem, variables = start.problem, start.variables
    if best is not None:
        problem, variables = best.problem, best.solution.variables
    problem = dataclasses.replace(problem, guide=FullRank())
    target, key = problem.target, fold_in(problem.key, number)
    shape = initial_params(target, problem.guide, key, origin(target.space), problem.batch)
    params = to_params(shape, from_params(variables.guide, target.space), target.space)
    initial = Variables(params, variables.model)
    assert problem.all_rows is not None
    return problem, solver.solve(key, target, problem.guide, initial, problem.all_rows)
