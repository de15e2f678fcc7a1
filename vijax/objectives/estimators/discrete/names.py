"""Selection of a gradient estimator for discrete sites, by name or automatically."""

from __future__ import annotations

from collections.abc import Mapping

from vijax.contracts import Space, TermInfo
from vijax.objectives.estimators.discrete.black_box import DisARM, LeaveOneOut, LocalExpectation
from vijax.objectives.estimators.discrete.estimator import Estimator
from vijax.objectives.estimators.discrete.rebar import Rebar
from vijax.objectives.estimators.discrete.relax import Relax
from vijax.objectives.estimators.discrete.relaxed import GumbelSoftmax, StraightThrough
from vijax.objectives.estimators.rao_blackwell import coupled_size
from vijax.runtime.keywords import did_you_mean

NAMES: dict[str, Estimator] = {
    "local": LocalExpectation(),
    "disarm": DisARM(),
    "leave_one_out": LeaveOneOut(),
    "rebar": Rebar(),
    "relax": Relax(),
    "gumbel_softmax": GumbelSoftmax((1.0, 0.5, 0.25, 0.1)),
    "straight_through": StraightThrough(),
}
_MAX_EVALUATIONS = 16  # of local expectations


def check_discrete(discrete: str | Estimator) -> None:
    """Checks the option `discrete`.

    Raises:
        ValueError: it names no estimator.
    """
    if isinstance(discrete, Estimator) or discrete in ("auto", *NAMES):
        return
    hint = did_you_mean(str(discrete), NAMES)
    raise ValueError(
        f"discrete: expected 'auto', one of {list(NAMES)} or an estimator of "
        f"vijax.objectives.estimators.discrete, got {discrete!r}.{hint}"
    )


def select_estimator(
    discrete: str | Estimator, space: Space, term_info: Mapping[str, TermInfo]
) -> Estimator:
    """The estimator that an option denotes.

    `"auto"` is unbiased: local expectations if they take at most 16 evaluations, DisARM if every
    site is binary, else leave-one-out.

    Args:
        discrete: a name, an estimator or `"auto"`.
        space: the space of the discrete sites.
        term_info: dependence structure of the terms.
    """
    if isinstance(discrete, Estimator):
        return discrete
    if discrete != "auto":
        return NAMES[discrete]
    if (
        all(site.cardinality for site in space.sites)
        and _evaluations(space, term_info) <= _MAX_EVALUATIONS
    ):
        return LocalExpectation()
    if all(site.cardinality == 2 for site in space.sites):
        return DisARM()
    return LeaveOneOut()


def _evaluations(space: Space, term_info: Mapping[str, TermInfo]) -> int:
    """Number of evaluations of local expectations."""
    total = 1
    for site in space.sites:
        total += coupled_size(site, term_info) * ((site.cardinality or 1) - 1)
    return total
