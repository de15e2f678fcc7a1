"""Separate modes: each refined by itself, all together a mixture.

A path of steepest start ends in one mode, and which one is chance. As long as some modes were found
by one path alone, others are likely to be left: the share of paths that would end in a mode not
seen yet is about that of those that ended where no other did. Source: The population frequencies of
species and the estimation of population parameters, Good, 1953.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from vijax.auto.candidate import Candidate, StartingPoint, warm_started
from vijax.contracts import DensityGuide, PyTree, Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.guides import Mixture
from vijax.guides.mixture import MixtureParams
from vijax.runtime.keys import fold_in, host_rng
from vijax.solvers import Pathfinder
from vijax.solvers.gaussians.conversion import from_params, to_params
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import Factored

_APART = 1.0  # sds between the means of two modes
_WEIGHT = 1e-3  # share of the evidence below which a mode is left out
_PATHS, _ROUNDS = 16, 12  # paths of one further search, and searches
_MODES = 32  # most that are looked for
_OFTEN = 3  # paths that end in every mode before the search does: others may be as hard to reach
_UNSEEN = 0.02  # share of paths that may end in modes not seen


def modes(start: StartingPoint, best: Candidate | None) -> Candidate | None:
    """A mixture of the separate modes that hold some of the evidence."""
    if best is None or not best.solution.alternatives:
        return None
    found = [best]
    for params in best.solution.alternatives:
        one = _refined(start, best, params, len(found))
        if _nearest(_gaussian(one), [_gaussian(other) for other in found])[1] > _APART:
            found.append(one)
    complete = len(found) == 1 or _search(start, found)
    evidence = np.array([_log_evidence(one) for one in found])
    weights = np.exp(evidence - evidence.max())
    kept = [i for i in np.argsort(-weights) if weights[i] > _WEIGHT * weights.sum()]
    if len(kept) == 1:
        one = found[kept[0]]
        return start.candidate(one.problem, one.solution._replace(alternatives=()))
    problem = best.problem
    assert isinstance(problem.guide, DensityGuide)
    guides = tuple(problem.guide for _ in kept)
    logits = jax.device_put(evidence[kept].astype(np.float32) - np.float32(evidence.max()))
    params = MixtureParams(logits, tuple(found[i].solution.variables.guide for i in kept))
    solution = Solution(
        Variables(params, best.solution.variables.model),
        f"a mixture of {len(kept)} separate modes; {best.solution.reason}",
        all(found[i].solution.converged for i in kept),
        sum(one.solution.evaluations for one in found),
        best.solution.losses,
    )
    mixture = start.candidate(dataclasses.replace(problem, guide=Mixture(guides)), solution)
    facts = mixture.assessment.diagnostics._replace(more_modes=not complete)
    return mixture._replace(assessment=mixture.assessment._replace(diagnostics=facts))


def _search(start: StartingPoint, found: list[Candidate]) -> bool:
    """Adds the modes that further paths end in; whether these are all, as far as paths can tell."""
    best = found[0]
    problem, variables = best.problem, best.solution.variables
    kernel = Kernel(problem.target, problem.batch, variables.model, start.mutable)
    rng, paths = host_rng(fold_in(problem.key, 55)), Pathfinder(num_paths=_PATHS)
    known, visits = [_gaussian(one) for one in found], [1] * len(found)
    for _ in range(_ROUNDS):
        for gaussian, count in paths.run(kernel, rng).modes(best.assessment.elbo):
            nearest, distance = _nearest(gaussian, known)
            if distance > _APART:  # a mode's own Gaussian may yet be one that is known
                params = to_params(variables.guide, gaussian, problem.target.space)
                one = _refined(start, best, params, len(found))
                nearest, distance = _nearest(_gaussian(one), known)
            if distance > _APART:
                found.append(one)
                known.append(_gaussian(one))
                visits.append(count)
            else:
                visits[nearest] += count
        if min(visits) >= _OFTEN or len(found) > _MODES:
            break
    return visits.count(1) <= _UNSEEN * sum(visits)


def _refined(start: StartingPoint, best: Candidate, params: PyTree, number: int) -> Candidate:
    """The Gaussian at a mode that these parameters are near."""
    problem = best.problem
    at = best.solution.variables._replace(guide=params)
    key = fold_in(fold_in(problem.key, 50), number)
    solution = warm_started(problem).solve(key, problem.target, problem.guide, at, problem.batch)
    return start.candidate(problem, solution)


def _nearest(one: Gaussian | Factored, others: Sequence[Gaussian | Factored]) -> tuple[int, float]:
    """Which mean is nearest, and how far it is, in sds of the narrower where that is farthest."""
    distances = [
        np.max(np.abs(one.mean - other.mean) / np.minimum(one.sd, other.sd)) for other in others
    ]
    nearest = int(np.argmin(distances))
    return nearest, float(distances[nearest])


def _gaussian(candidate: Candidate) -> Gaussian | Factored:
    return from_params(candidate.solution.variables.guide, candidate.problem.target.space)


def _log_evidence(candidate: Candidate) -> float:
    importance = candidate.assessment.importance
    return -math.inf if importance is None else importance.log_evidence
