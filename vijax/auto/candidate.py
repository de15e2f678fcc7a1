"""A candidate approximation of an automatic fit, with its diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts import PyTree, Solution, Variables
from vijax.diagnostics.assessment import (
    Assessment,
    Chains,
    add_chain_check,
    add_gradient_check,
    add_propriety,
    assess,
    assess_elbos,
)
from vijax.engine.problem import Problem
from vijax.guides import FullRank
from vijax.solvers import BatchAndMatch, VariationalNewton
from vijax.solvers.default import dense_gaussian

_LEAST_SHARE = 0.02  # of draws with a finite density, where likelihoods may be zero
MAX_UNSEEN = 0.02  # estimated probability of unseen modes up to which the search is complete


class Candidate(NamedTuple):
    """An approximation.

    Attributes:
        problem: with the candidate's guide and coordinates.
        solution: the fitted variables.
        assessment: diagnostics of the fit.
        connected: whether the components of its mixture lie along one mode.
    """

    problem: Problem
    solution: Solution
    assessment: Assessment
    connected: bool = False


class StartingPoint(NamedTuple):
    """The start of a search.

    Attributes:
        problem: with the guide of the first stage.
        variables: initial variables.
        mutable: the model's mutable state.
        keep: called with a function that returns a candidate, before there is another.
    """

    problem: Problem
    variables: Variables
    mutable: dict[str, PyTree]
    keep: Callable[[Callable[[], Candidate]], None] = lambda _: None

    def candidate(self, problem: Problem, solution: Solution) -> Candidate:
        """A solution with its importance-sampling diagnostics."""
        return Candidate(
            problem, solution, assess_solution(problem, solution, self.mutable, "none")
        )


def unassessed(problem: Problem, solution: Solution) -> Candidate:
    """A candidate without diagnostics, for lack of time."""
    return Candidate(problem, solution, assess_elbos(np.zeros(0), solution.converged))


def assess_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], chains: Chains
) -> Assessment:
    """Diagnostics of a solution; see `vijax.diagnostics.assessment.assess`."""
    fitted = problem.fitted(solution.variables, mutable)
    num_modes = 1 + len(solution.alternatives)
    more_modes = solution.unseen is not None and solution.unseen > MAX_UNSEEN
    found = assess(
        fitted, solution.converged, num_modes=num_modes, more_modes=more_modes, chains=chains
    )
    if solution.sites is None:
        return found
    # expectation propagation does not end at a maximum of the ELBO, which may be infinite
    diagnostics = found.diagnostics._replace(stationarity=None, least_share=_LEAST_SHARE)
    return found._replace(diagnostics=diagnostics)


def is_better(one: Candidate, other: Candidate) -> bool:
    """Whether the ELBO of `one` is higher by more than two standard errors."""
    new, old = one.assessment, other.assessment
    if not math.isfinite(old.elbo):
        return math.isfinite(new.elbo)
    return new.elbo - old.elbo > 2 * math.hypot(new.elbo_se, old.elbo_se)


def check_with_chains(best: Candidate, mutable: dict[str, PyTree], correct: bool) -> Candidate:
    """The candidate checked with short chains; `correct` if their states may replace its draws."""
    fitted = best.problem.fitted(best.solution.variables, mutable)
    return best._replace(assessment=add_chain_check(best.assessment, fitted, correct))


def check_target(candidate: Candidate, mutable: dict[str, PyTree]) -> Candidate:
    """The candidate with checks that the posterior is proper and that the gradient is right."""
    fitted = candidate.problem.fitted(candidate.solution.variables, mutable)
    assessment = add_propriety(candidate.assessment, fitted)
    return candidate._replace(assessment=add_gradient_check(assessment, fitted))


def warm_start_solver(problem: Problem) -> VariationalNewton | BatchAndMatch:
    """A solver that starts from the guide's current Gaussian."""
    return dense_gaussian(None) if problem.guide == FullRank() else BatchAndMatch(start=None)
