"""The stages of an automatic fit for many data sets at once: Gaussian, centering, modes, chains.

The same stages, tests and thresholds as `vijax.auto.search` and `vijax.auto.stages`, on arrays with
a leading axis of sets. A set for which they do not end in a status that can be relied on is left to
`vijax.fit` on it alone, which has more: mixtures, restarts, flows and gradient steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vijax.auto.candidate import MAX_UNSEEN, is_better
from vijax.auto.centering import ROUNDS, learn_centering
from vijax.auto.many.member import (
    Member,
    assess_many,
    check_gradients,
    gaussian_of,
    numbers,
    params_of,
    solution_at,
)
from vijax.auto.many.modes import leave_mixtures, search_many
from vijax.auto.stages import CENTERING, GAUSSIAN
from vijax.contracts import Solution, Variables
from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import with_chains
from vijax.diagnostics.chain_check import evaluation_budget
from vijax.diagnostics.diagnosis import TRUSTED
from vijax.diagnostics.many_chains import Checked, check_many
from vijax.diagnostics.status import CERTIFIED_SHIFT
from vijax.engine.problem import Problem
from vijax.model.centering import noncentered_weights, with_centering
from vijax.runtime.deadline import time_is_up
from vijax.runtime.keys import rng_of_words
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.many.ascent import ascend
from vijax.solvers.many.gaussians import stack
from vijax.solvers.many.pathfinder import find

_NO_START = "no path found a Gaussian with a finite ELBO"
_NOT_TRUSTED = "its status would be {}"


def fit_together(
    problems: Sequence[Problem],
    words: Sequence[tuple[int, int]],
    size: int,
    first: Floats | None = None,
) -> list[Member]:
    """Fits the same model to all data sets of `problems` at once.

    Args:
        problems: one for each set, of one target with the guide `FullRank`.
        words: of the key of each, see `key_words`; the keys of the problems are not used.
        size: number of sets in the program, at least as many: one serves calls of any number.
        first: the start of the first path in all sets, `(dim,)`.

    Returns:
        One member for each problem; those to be fitted alone say why.
    """
    target = problems[0].target
    if target.structure.hierarchical:
        start = noncentered_weights(target)
        problems = [
            dataclasses.replace(one, batch=with_centering(one.batch, start)) for one in problems
        ]
    kernel = _kernel(problems, size)
    members = [
        Member(i, problem, key, rng_of_words(key, 4))
        for i, (problem, key) in enumerate(zip(problems, words, strict=True))
    ]
    with host_algebra(0):
        _gaussian(kernel, members, first)
        check_gradients(kernel, going(members))
        # before other coordinates are learned, in which there may be unbounded modes
        search_many(kernel, [one for one in going(members) if _is_unsearched(one)])
        _centering(kernel, going(members))
        leave_mixtures(going(members))
        _chains(kernel, going(members))
    for one in going(members):
        if one.status not in TRUSTED:
            one.alone = _NOT_TRUSTED.format(one.status)
    return members


def going(members: Sequence[Member]) -> list[Member]:
    """The members that are still fitted together."""
    return [one for one in members if not one.alone]


def _kernel(problems: Sequence[Problem], size: int) -> StackedKernel:
    padded = [*problems, *[problems[-1]] * (size - len(problems))]
    batches = [one.batch for one in padded]
    data = {name: _stacked([batch.data[name] for batch in batches]) for name in batches[0].data}
    names = batches[0].centering
    centering = {n: np.stack([np.asarray(b.centering[n]) for b in batches]) for n in names}
    return StackedKernel(problems[0].target, data, centering, len(padded))


def _stacked(arrays: Sequence[Any]) -> np.ndarray:
    """Arrays along a leading axis, of length 1 if all are the same object."""
    same = all(array is arrays[0] for array in arrays)
    return np.stack([np.asarray(array) for array in (arrays[:1] if same else arrays)])


def _gaussian(kernel: StackedKernel, members: list[Member], first: Floats | None) -> None:
    """The Gaussian of largest ELBO, from the best of several paths."""
    began = time.perf_counter()
    rngs = [one.rng for one in members]
    found = find(kernel, rngs, numbers(members), first)
    fits = ascend(kernel, rngs, found.start, numbers(members))
    params = params_of(fits.gaussians)
    solutions, used = [], []
    several = (found.modes.max(axis=1) > 0) | found.uncovered(fits.gaussians, fits.elbo)
    for i, member in enumerate(members):
        if not (found.finite[i] and np.isfinite(fits.elbo[i])):
            member.alone = _NO_START
            continue
        solution = solution_at(
            params[i],
            f"{fits.steps[i]} Newton steps from the best of {found.modes.shape[1]} paths by ELBO",
            bool(fits.converged[i]),
            int(kernel.points[member.number]),
        )._replace(unseen=0.0)
        if several[i]:
            paths = found.result(i)
            others = paths.other_modes(fits.gaussians.row(i), float(fits.elbo[i]))
            solution = solution._replace(alternatives=tuple(others), unseen=paths.unseen)
        solutions.append(solution)
        used.append(member)
    if not used:
        return
    candidates = assess_many(kernel, used, [one.problem for one in used], solutions)
    seconds = (time.perf_counter() - began) / len(members)
    for member, candidate in zip(used, candidates, strict=True):
        member.best = candidate
        member.record(GAUSSIAN, candidate, True, seconds)


def _is_unsearched(member: Member) -> bool:
    """Whether there may be other modes."""
    solution = member.fit.solution
    unseen = solution.unseen
    return bool(solution.alternatives) or unseen is None or unseen > MAX_UNSEEN


def _centering(kernel: StackedKernel, members: list[Member]) -> None:
    """Learned centering weights of hierarchical sites; see `vijax.auto.stages.centering`."""
    active = [one for one in members if one.problem.batch.centering and one.status != "certified"]
    for round_ in range(ROUNDS):
        began = time.perf_counter()
        moved = []
        for member in active:
            found = learn_centering(member.fit.problem, member.fit.solution.variables, {})
            if found is not None:
                moved.append((member, *found))
        if not moved or time_is_up():
            return
        active = _recentered(kernel, moved, round_, began)


def _recentered(
    kernel: StackedKernel,
    moved: list[tuple[Member, Problem, Variables]],
    round_: int,
    began: float,
) -> list[Member]:
    """Fits in new coordinates; returns the members whose ELBO rose."""
    members = [member for member, _, _ in moved]
    problems = [problem for _, problem, _ in moved]
    before = kernel.centering
    _use_centering(kernel, members, problems)
    start = stack([gaussian_of(variables.guide) for _, _, variables in moved])
    fits = ascend(kernel, [one.rng for one in members], start, numbers(members))
    params = params_of(fits.gaussians)
    solutions: list[Solution] = []
    for i, member in enumerate(members):
        old, points = member.fit.solution, int(kernel.points[member.number])
        reason = f"{fits.steps[i]} Newton steps in coordinates with learned centering"
        one = solution_at(params[i], reason, bool(fits.converged[i]), points)
        solutions.append(one if old.alternatives else one._replace(unseen=old.unseen))
    candidates = assess_many(kernel, members, problems, solutions)
    seconds = (time.perf_counter() - began) / len(members)
    better = []
    for member, candidate in zip(members, candidates, strict=True):
        kept = is_better(candidate, member.fit)
        if kept or round_ == 0:
            member.record(CENTERING, candidate, kept, seconds)
        if kept:
            diagnostics = candidate.assessment.diagnostics._replace(
                wrong_gradient=member.fit.assessment.diagnostics.wrong_gradient
            )
            assessment = candidate.assessment._replace(diagnostics=diagnostics)
            member.best = candidate._replace(assessment=assessment)
            better.append(member)
    reverted = {one.number for one in members} - {one.number for one in better}
    rows = sorted(reverted)
    if rows:
        weights_now = {name: value.copy() for name, value in kernel.centering.items()}
        for name, value in weights_now.items():
            value[rows] = before[name][rows]
        kernel.set_centering(weights_now)
    return better


def _use_centering(
    kernel: StackedKernel, members: Sequence[Member], problems: Sequence[Problem]
) -> None:
    changed = {name: value.copy() for name, value in kernel.centering.items()}
    for member, problem in zip(members, problems, strict=True):
        for name, value in changed.items():
            value[member.number] = np.asarray(problem.batch.centering[name])
    kernel.set_centering(changed)


def _chains(kernel: StackedKernel, members: list[Member]) -> None:
    """Short chains from each fit, which check it and may correct its draws."""
    checks = []
    for member in members:
        assessment = member.fit.assessment
        diagnostics, importance = assessment.diagnostics, assessment.importance
        usable = diagnostics.finite_share > diagnostics.least_share
        if importance is None or not usable or time_is_up():
            member.alone = "chains could not be run"
            continue
        one = kernel.of_set(member.number)
        checks.append(
            Checked(
                member.number,
                weights.flatten(kernel.target.space, assessment.draws.z),
                importance.log_weights,
                member.stream(5, 1),
                evaluation_budget(one, correcting=member.status != "certified"),
            )
        )
    if not checks:
        return
    finished = {one.number: one for one in check_many(kernel, checks, CERTIFIED_SHIFT, True)}
    for member in going(members):
        found = finished.get(member.number)
        if found is None:
            member.alone = "chains could not be started"
            continue
        fitted = member.fitted(member.fit)
        assessment = with_chains(member.fit.assessment, fitted, found.found, found.states, True)
        member.best = member.fit._replace(assessment=assessment)
