"""The default solver of each guide."""

from __future__ import annotations

import functools

from vijax.contracts import Guide, Solver
from vijax.guides.delta import Delta
from vijax.guides.flow import Flow
from vijax.guides.location_scale.full_rank import FullRank
from vijax.guides.location_scale.laplace import Laplace
from vijax.guides.location_scale.low_rank import LowRank
from vijax.guides.location_scale.mean_field import MeanField
from vijax.guides.structured.markov import Markov
from vijax.guides.structured.plates import Plates
from vijax.solvers.batch_and_match.batch_and_match import BatchAndMatch
from vijax.solvers.flow_descent import FlowDescent
from vijax.solvers.laplace import LaplaceSolver
from vijax.solvers.mean_field.fixed_draws import FixedDraws
from vijax.solvers.mode import ModeSolver
from vijax.solvers.pathfinder.pathfinder import Pathfinder
from vijax.solvers.structured_newton import StructuredNewton
from vijax.solvers.variational_newton import VariationalNewton

_NEWTON_STEPS = 16  # enough for an average of the last twelve
_FLOW_DIM = 500  # dimension beyond which the steps of a flow are slow, ...
_FLOW_STEPS = 500  # ... and the number of steps of its first cycle there
_MEAN_FIELD_DIM = 256  # beyond, gradient steps are as fast for correlated coordinates


@functools.singledispatch
def default_solver(guide: Guide, dim: int) -> Solver | None:
    """The default direct solver of a guide; `None` if it is fitted by gradient steps.

    >>> default_solver(FullRank(), dim=10).start.num_draws
    32

    Args:
        guide: the guide.
        dim: dimension of the target.
    """
    return None


@default_solver.register
def _(guide: FullRank, dim: int) -> Solver:
    return dense_gaussian(Pathfinder())


@default_solver.register
def _(guide: LowRank, dim: int) -> Solver:
    return BatchAndMatch()


@default_solver.register
def _(guide: Laplace, dim: int) -> Solver:
    return LaplaceSolver()


@default_solver.register
def _(guide: Delta, dim: int) -> Solver:
    return ModeSolver()


@default_solver.register
def _(guide: MeanField, dim: int) -> Solver | None:
    return FixedDraws() if dim <= _MEAN_FIELD_DIM else None


@default_solver.register
def _(guide: Flow, dim: int) -> Solver:
    base = guide.base_for(dim)
    # omits the Newton steps for the base: the flow continues to maximize the ELBO
    start = BatchAndMatch() if isinstance(base, FullRank) else default_solver(base, dim)
    if dim > _FLOW_DIM:
        return FlowDescent(start or Pathfinder(), num_steps=_FLOW_STEPS, max_cycles=2)
    return FlowDescent(start or Pathfinder())


@default_solver.register
def _(guide: Markov | Plates, dim: int) -> Solver:
    return StructuredNewton()


def dense_gaussian(start: Pathfinder | None) -> VariationalNewton:
    """Batch and match, then a few Newton steps on the ELBO.

    Score matching is faster far from the optimum, but its fixed point differs from that of the
    ELBO: on a logistic regression standard deviations are 8 % too small, after the steps 4 %.
    """
    return VariationalNewton(start=BatchAndMatch(start=start), max_steps=_NEWTON_STEPS)
