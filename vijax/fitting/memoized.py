"""Conjugate guides on minibatches of data that can be read again: memoized coordinate ascent."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from vijax.contracts import Batch, Blocks, Solution, Variables
from vijax.engine.problem import Problem
from vijax.fitting.conjugate_start import subsample_start
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.deadline import offer, partial_results
from vijax.runtime.keys import fold_in
from vijax.solvers.block_updates import local_blocks
from vijax.solvers.coordinate_ascent import CoordinateAscent
from vijax.solvers.memoized import MAX_TERMS, memoized_ascent, num_terms

_TOLERANCE, _PASSES = 1e-3, 200  # in nats of all rows


def memoized_solution(
    problem: Problem, starts: Sequence[Variables], random: bool
) -> Solution | None:
    """The best solution from several starts, each first fitted to a subsample of the rows.

    Args:
        problem: the problem, on minibatches.
        starts: initial variables.
        random: see `vijax.fitting.conjugate_start.subsample_start`.

    Returns:
        `None` where it does not apply: parameters for each row, data that can be read once, or too
        many blocks of rows to keep the terms of each.
    """
    guide, target = problem.guide, problem.target
    assert isinstance(guide, BoundConjugate)
    data = problem.all_rows if problem.schedule.subsampled else None
    if data is None or local_blocks(target, guide.plan):
        return None
    if isinstance(data, Blocks) and num_terms(starts[0].guide, data) > MAX_TERMS:
        return None
    found = []
    for number, variables in enumerate(starts):
        with partial_results(lambda _: None):  # its ELBO is that of a subsample
            first, _ = subsample_start(problem, variables, number, random)
        start = Solution(first, "coordinate ascent on a subsample of the rows", False, 0)
        offer(functools.partial(_itself, start))
        found.append(_ascended(problem, guide, first, data))
    return max(found, key=lambda one: -math.inf if one.elbo is None else one.elbo)


def _ascended(
    problem: Problem, guide: BoundConjugate, variables: Variables, data: Batch | Blocks
) -> Solution:
    """The solution on all rows, from one start."""
    if not isinstance(data, Blocks):
        solver = CoordinateAscent(num_restarts=0)
        return solver.solve(fold_in(problem.key, 4), problem.target, guide, variables, data)
    state = (problem.target, guide.plan, variables.guide, data)
    return memoized_ascent(*state, tolerance=_TOLERANCE, max_passes=_PASSES)


def _itself(solution: Solution) -> Solution:
    return solution
