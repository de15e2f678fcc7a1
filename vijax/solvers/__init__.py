"""Solvers: full-batch methods that run on the host and call a compiled log density."""

from vijax.contracts.kernel import Kernel
from vijax.solvers.batch_and_match.batch_and_match import BatchAndMatch, BatchAndMatchResult
from vijax.solvers.coordinate_ascent import CoordinateAscent
from vijax.solvers.default import default_solver
from vijax.solvers.expectation_propagation.solver import ExpectationPropagation
from vijax.solvers.flow_descent import FlowDescent
from vijax.solvers.laplace import LaplaceResult, LaplaceSolver
from vijax.solvers.mean_field.covariance import linear_response
from vijax.solvers.mean_field.fixed_draws import FixedDraws, FixedDrawsResult
from vijax.solvers.mode import Mode, ModeSolver
from vijax.solvers.names import NAMES, by_name
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.pathfinder.pathfinder import Pathfinder, PathfinderResult
from vijax.solvers.structured_newton import StructuredNewton
from vijax.solvers.variational_newton import VariationalNewton, VariationalNewtonResult

__all__ = [
    "LBFGS",
    "NAMES",
    "BatchAndMatch",
    "BatchAndMatchResult",
    "CoordinateAscent",
    "ExpectationPropagation",
    "FixedDraws",
    "FixedDrawsResult",
    "FlowDescent",
    "Kernel",
    "LaplaceResult",
    "LaplaceSolver",
    "Mode",
    "ModeSolver",
    "Pathfinder",
    "PathfinderResult",
    "StructuredNewton",
    "VariationalNewton",
    "VariationalNewtonResult",
    "by_name",
    "default_solver",
    "linear_response",
]
