"""One answer that a climb has come to, with what is known of it."""

from __future__ import annotations

import math
from typing import NamedTuple

from vijax.contracts import PyTree, Solution, Variables
from vijax.diagnostics.assessment import Assessment, Chains, add_chain_check, assess
from vijax.engine.problem import Problem
from vijax.guides import FullRank
from vijax.solvers import BatchAndMatch, VariationalNewton
from vijax.solvers.default import dense_gaussian


class Candidate(NamedTuple):
    """An answer: the problem with its guide and coordinates, its solution, what weights say."""

    problem: Problem
    solution: Solution
    assessment: Assessment


class StartingPoint(NamedTuple):
    """Where a climb starts.

    Attributes:
        problem: with the guide of the first stage.
        variables: to start from.
        mutable: the model's mutable state.
    """

    problem: Problem
    variables: Variables
    mutable: dict[str, PyTree]

    def candidate(self, problem: Problem, solution: Solution) -> Candidate:
        """A solution with what the importance weights say of it."""
        return Candidate(
            problem, solution, assess_solution(problem, solution, self.mutable, "none")
        )


def assess_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], chains: Chains
) -> Assessment:
    """Assesses a solution of a problem; see `vijax.diagnostics.assessment.assess`."""
    fitted = problem.fitted(solution.variables, mutable)
    num_modes = 1 + len(solution.alternatives)
    return assess(fitted, solution.converged, num_modes=num_modes, chains=chains)


def better(one: Candidate, other: Candidate) -> bool:
    """Whether the ELBO of one is higher by more than two standard errors."""
    new, old = one.assessment, other.assessment
    if not math.isfinite(old.elbo):
        return math.isfinite(new.elbo)
    return new.elbo - old.elbo > 2 * math.hypot(new.elbo_se, old.elbo_se)


def chain_checked(best: Candidate, mutable: dict[str, PyTree], correct: bool) -> Candidate:
    """A candidate that short chains have checked, and corrected where they can and may."""
    fitted = best.problem.fitted(best.solution.variables, mutable)
    return best._replace(assessment=add_chain_check(best.assessment, fitted, correct))


def warm_started(problem: Problem) -> VariationalNewton | BatchAndMatch:
    """The solver that starts from the guide's own Gaussian."""
    return dense_gaussian(None) if problem.guide == FullRank() else BatchAndMatch(start=None)
