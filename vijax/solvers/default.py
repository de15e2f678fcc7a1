"""Which solver a guide is fitted with when the user does not say."""

from __future__ import annotations

import functools

from vijax._contracts import Guide, Solver
from vijax.guides.delta import Delta
from vijax.guides.laplace import Laplace
from vijax.guides.low_rank import LowRank
from vijax.guides.normal import FullRank
from vijax.solvers.batch_and_match import BatchAndMatch
from vijax.solvers.laplace import LaplaceSolver
from vijax.solvers.mode import ModeSolver


@functools.singledispatch
def default_solver(guide: Guide) -> Solver | None:
    """The solver that reaches the best member of a guide's family directly, `None` without one.

    Mean-field guides have none: gradient steps on them are cheap and seldom astray.

    >>> default_solver(FullRank()).num_draws
    32
    """
    return None


@default_solver.register
def _(guide: FullRank) -> Solver:
    return BatchAndMatch()


@default_solver.register
def _(guide: LowRank) -> Solver:
    return BatchAndMatch()


@default_solver.register
def _(guide: Laplace) -> Solver:
    return LaplaceSolver()


@default_solver.register
def _(guide: Delta) -> Solver:
    return ModeSolver()
