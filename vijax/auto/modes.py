"""Mixture of separate modes: a Gaussian at each, weighted by its marginal likelihood.

An optimization path from a random start ends in a random mode. The probability that a further path
ends in a mode not found yet is estimated by the share of paths that ended in a mode found only once
(Good-Turing estimate). Source: The population frequencies of species and the estimation of
population parameters, Good, 1953.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from vijax.auto.candidate import (
    MAX_UNSEEN,
    Candidate,
    StartingPoint,
    is_better,
    warm_start_solver,
)
from vijax.auto.centering import in_coordinates
from vijax.auto.mode_search import unaffordable
from vijax.contracts import DensityGuide, PyTree, Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.guides import FullRank, LowRank, Mixture
from vijax.guides.mixture import MixtureParams
from vijax.model.centering import noncentered_weights
from vijax.runtime.deadline import time_is_up
from vijax.runtime.keys import fold_in, host_rng
from vijax.runtime.progress import advance, expect, stage
from vijax.solvers import Pathfinder
from vijax.solvers.gaussians.conversion import from_params, to_params
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.pathfinder.pathfinder import PathfinderResult

MIN_SEPARATION = 1.0  # distance between separate modes, see `nearest`
_MIN_WEIGHT = 1e-3  # share of the marginal likelihood below which a mode is left out
_PATHS, ROUNDS = 16, 12  # paths per round, maximum number of rounds
MIN_ROUNDS = 4  # rounds after which lone paths at modes of negligible mass do not matter
MAX_MODES = 32  # number of modes at which the search ends
MAX_UNCOVERED = 8  # Gaussians that are added where modes are connected
_OUT_OF_TIME = "the time limit passed before other modes were searched for"
MIN_VISITS = 3  # the search ends once every mode was reached by so many paths


def modes(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A mixture of Gaussians at the separate modes, without modes of negligible weight."""
    if best is None or not isinstance(best.problem.guide, (FullRank, LowRank)):
        return None
    if not math.isfinite(_log_evidence(best)):
        return None
    unseen = best.solution.unseen
    if not best.solution.alternatives and (unseen is not None and unseen <= MAX_UNSEEN):
        return None
    if unseen is None and unaffordable(best.problem):
        return None
    plain = _noncentered(start, best)
    found = _modes(start, best if plain is None else plain)
    if plain is None:
        return found
    same = found.solution.variables is plain.solution.variables
    if not same and not (found.connected and not is_better(found, best)):
        return found
    # there are no others, or only a tail: the fit in its own coordinates is the better one
    kept = best._replace(
        solution=best.solution._replace(alternatives=(), unseen=found.solution.unseen)
    )
    diagnostics = best.assessment.diagnostics._replace(num_modes=1)
    kept = kept._replace(assessment=best.assessment._replace(diagnostics=diagnostics))
    return _complete(kept, not found.assessment.diagnostics.more_modes)


def _noncentered(start: StartingPoint, best: Candidate) -> Candidate | None:
    """A fit in learned coordinates as one in which all hierarchical sites are non-centered.

    In others the density has a mode without bound where all values of such a site are equal, which
    paths would find. `None` if these are its coordinates, or it cannot be represented in them.
    """
    problem, solution = best.problem, best.solution
    centering = problem.batch.centering
    learned = not start.problem.batch.centering and any(map(np.any, centering.values()))
    if not learned or solution.alternatives:
        return None
    plain = noncentered_weights(problem.target)
    moved = in_coordinates(problem, solution.variables, start.mutable, plain)
    if moved is None:
        return None
    return start.candidate(moved[0], solution._replace(variables=moved[1]))


def _modes(start: StartingPoint, best: Candidate) -> Candidate:
    """The fit with all other modes of some mass, those of its solution among them."""
    found = [best]
    for params in best.solution.alternatives:
        one = _refined(start, best, params, len(found))
        if nearest(_gaussian(one), [_gaussian(other) for other in found])[1] > MIN_SEPARATION:
            found.append(one)
    with stage("searching for other modes"):
        rounds, complete = _search(start, found)
    extended = found + _uncovered(start, found, rounds)
    mixture = _mixture(start, extended)
    if len(extended) > len(found) and not is_better(mixture, best):  # the long tail of one mode
        mixture = _mixture(start, found)
    connected = all(ends.num_modes == 1 for ends in rounds)
    return _complete(mixture._replace(connected=connected), complete)


def _mixture(start: StartingPoint, found: list[Candidate]) -> Candidate:
    """The mixture of those with the most mass, the one alone if the others have hardly any."""
    best = found[0]
    kept, logits = weights_of_modes(np.array([_log_evidence(one) for one in found]))
    if len(kept) == 1:
        one = found[kept[0]]
        solution = one.solution._replace(alternatives=(), unseen=0.0)
        return start.candidate(one.problem, solution)
    problem = best.problem
    assert isinstance(problem.guide, DensityGuide)
    guides = tuple(problem.guide for _ in kept)
    params = MixtureParams(
        jax.device_put(logits), tuple(found[i].solution.variables.guide for i in kept)
    )
    solution = Solution(
        Variables(params, best.solution.variables.model),
        f"mixture of {len(kept)} Gaussians at separate modes; {best.solution.reason}",
        all(found[i].solution.converged for i in kept),
        sum(one.solution.evaluations for one in found),
        best.solution.losses,
        unseen=0.0,
    )
    return start.candidate(dataclasses.replace(problem, guide=Mixture(guides)), solution)


def weights_of_modes(log_evidence: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Indices of the modes with some mass, heaviest first, and the logits of their weights."""
    weights = np.exp(log_evidence - log_evidence.max())
    kept = [int(i) for i in np.argsort(-weights) if weights[i] > _MIN_WEIGHT * weights.sum()]
    return kept, log_evidence[kept].astype(np.float32) - np.float32(log_evidence.max())


def _complete(candidate: Candidate, complete: bool) -> Candidate:
    """The candidate with a record of whether the search for modes was complete."""
    out_of_time = "" if complete or not time_is_up() else _OUT_OF_TIME
    diagnostics = candidate.assessment.diagnostics._replace(
        more_modes=not (complete or out_of_time), unsearched=out_of_time
    )
    return candidate._replace(assessment=candidate.assessment._replace(diagnostics=diagnostics))


def _search(start: StartingPoint, found: list[Candidate]) -> tuple[list[PathfinderResult], bool]:
    """Adds the modes found by further paths.

    Returns:
        The rounds of paths, and whether all modes are likely found.
    """
    best = found[0]
    problem, variables = best.problem, best.solution.variables
    assert problem.all_rows is not None
    kernel = Kernel(problem.target, problem.all_rows, variables.model, start.mutable)
    rng, paths = host_rng(fold_in(problem.key, 55)), Pathfinder(num_paths=_PATHS)
    known, visits = [_gaussian(one) for one in found], [1] * len(found)
    rounds: list[PathfinderResult] = []
    expect(ROUNDS, "round")
    while len(rounds) < ROUNDS:
        ends = paths.run(kernel, rng)
        rounds.append(ends)
        for gaussian, count in ends.modes(best.assessment.elbo):
            closest, distance = nearest(gaussian, known)
            if distance > MIN_SEPARATION:  # refined, it may coincide with a known mode
                params = to_params(variables.guide, gaussian, problem.target.space)
                one = _refined(start, best, params, len(found))
                closest, distance = nearest(_gaussian(one), known)
            if distance > MIN_SEPARATION:
                found.append(one)
                known.append(_gaussian(one))
                visits.append(count)
            else:
                visits = [
                    visited + count if j == closest or inside(gaussian, one) else visited
                    for j, (visited, one) in enumerate(zip(visits, known, strict=True))
                ]
        # paths that end alone at modes of negligible mass leave room for a high one
        enough = ends.unseen <= MAX_UNSEEN or len(rounds) >= MIN_ROUNDS
        if (min(visits) >= MIN_VISITS and enough) or len(found) > MAX_MODES or time_is_up():
            break
        advance(1, "round")
    return rounds, not time_is_up() and visits.count(1) <= MAX_UNSEEN * sum(visits)


def _uncovered(
    start: StartingPoint, found: list[Candidate], rounds: list[PathfinderResult]
) -> list[Candidate]:
    """What paths saw and none of `found` covers where modes are connected, as along a ridge."""
    best, added = found[0], list[Candidate]()
    space, variables = best.problem.target.space, best.solution.variables
    known = [_gaussian(one) for one in found]
    for ends in rounds:
        while len(added) < MAX_UNCOVERED and not time_is_up():
            gaussian = ends.uncovered(known, best.assessment.elbo)
            if gaussian is None:
                break
            params = to_params(variables.guide, gaussian, space)
            one = _refined(start, best, params, len(found) + len(added))
            if nearest(_gaussian(one), known)[1] <= MIN_SEPARATION:
                break
            added.append(one)
            known.append(_gaussian(one))
    return added


def _refined(start: StartingPoint, best: Candidate, params: PyTree, number: int) -> Candidate:
    """The Gaussian at the mode near `params`, by the solver."""
    problem = best.problem
    at = best.solution.variables._replace(guide=params)
    key = fold_in(fold_in(problem.key, 50), number)
    assert problem.all_rows is not None
    solution = warm_start_solver(problem).solve(
        key, problem.target, problem.guide, at, problem.all_rows
    )
    return start.candidate(problem, solution)


def nearest(
    one: Gaussian | LowRankGaussian, others: Sequence[Gaussian | LowRankGaussian]
) -> tuple[int, float]:
    """Index and distance of the nearest Gaussian.

    The distance is the maximum over coordinates of that of the means, in the smaller standard
    deviations, and of the absolute log ratio of these: one mode may lie inside of another.
    """
    distances = [
        max(
            np.max(np.abs(one.mean - other.mean) / np.minimum(one.sd, other.sd)),
            np.max(np.abs(np.log(one.sd / other.sd))),
        )
        for other in others
    ]
    closest = int(np.argmin(distances))
    return closest, float(distances[closest])


def inside(one: Gaussian | LowRankGaussian, other: Gaussian | LowRankGaussian) -> bool:
    """Whether the mean of one is at the mode of the other."""
    return bool(np.max(np.abs(one.mean - other.mean) / other.sd) < MIN_SEPARATION)


def _gaussian(candidate: Candidate) -> Gaussian | LowRankGaussian:
    return from_params(candidate.solution.variables.guide, candidate.problem.target.space)


def _log_evidence(candidate: Candidate) -> float:
    importance = candidate.assessment.importance
    return -math.inf if importance is None else importance.log_evidence
