"""Three common posteriors and a curved one, with exact draws.

`bench.peers` has PyMC and Pyro models of these four.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import _problems
from bench.posteriors import eight_schools as schools
from bench.posteriors import exact, hard
from bench.posteriors.case import Case

_DRAWS = 10_000


def eight_schools() -> Case:
    """Non-centered, d = 10; reference draws with `theta` marginalized."""
    reference = schools.exact_draws(_DRAWS)
    return Case(schools.non_centered, (schools.SIGMA, schools.Y), reference)


def radon() -> Case:
    """Homes in counties, centered, d = 89; normal given both scales."""
    problem = _problems.varying_intercepts()
    return Case(problem.model, problem.args, exact.varying_intercepts(*problem.args, _DRAWS))


def logistic() -> Case:
    """Forest cover by ten measurements of 5,000 patches, d = 11."""
    problem = _problems.covertype()
    return Case(problem.model, problem.args, exact.logistic(*problem.args, _DRAWS))


CASES: dict[str, Callable[[], Case]] = {
    one.__name__: one for one in (eight_schools, radon, logistic, hard.banana)
}
