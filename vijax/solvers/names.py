"""The solvers by the names accepted as `algorithm=`."""

from __future__ import annotations

from collections.abc import Callable

from vijax.contracts import Solver
from vijax.runtime.errors import VijaxError
from vijax.runtime.keywords import did_you_mean
from vijax.solvers.batch_and_match.batch_and_match import BatchAndMatch
from vijax.solvers.coordinate_ascent import CoordinateAscent
from vijax.solvers.expectation_propagation.solver import ExpectationPropagation
from vijax.solvers.laplace import LaplaceSolver
from vijax.solvers.mean_field.fixed_draws import FixedDraws
from vijax.solvers.mode import ModeSolver
from vijax.solvers.pathfinder.pathfinder import Pathfinder
from vijax.solvers.structured_newton import StructuredNewton
from vijax.solvers.variational_newton import VariationalNewton

NAMES: dict[str, Callable[[], Solver]] = {
    "coordinate_ascent": CoordinateAscent,
    "expectation_propagation": ExpectationPropagation,
    "pathfinder": Pathfinder,
    "batch_and_match": BatchAndMatch,
    "variational_newton": VariationalNewton,
    "structured_newton": StructuredNewton,
    "fixed_draws": FixedDraws,
    "laplace": LaplaceSolver,
    "mode": ModeSolver,
}

# not solvers: the default of the guide, and algorithms that take steps
CHOICES = ("auto", "gradient", "natural", "ivon", "swag", "sghmc")


def by_name(name: str) -> Solver | None:
    """The solver with this name and default options; `None` for the names in `CHOICES`.

    Raises:
        VijaxError: no solver has this name; lists all names.

    >>> by_name("fixed_draws").optimizer
    'lbfgs'
    """
    if name in CHOICES:
        return None
    try:
        return NAMES[name]()
    except KeyError:
        known = [*CHOICES, *NAMES]
        normalized = name.lower().replace("-", "_").replace(" ", "_")
        hint = did_you_mean(normalized, known)
        listed = ", ".join(map(repr, known))
        raise VijaxError(
            f"algorithm: expected {listed}, an Algorithm or a Solver, got {name!r}.{hint}"
        ) from None
