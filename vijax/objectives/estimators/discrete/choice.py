"""Which estimator: by name, or the one of least variance that can be afforded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from vijax.contracts import Space, TermInfo
from vijax.objectives.estimators.discrete.estimator import Estimator
from vijax.objectives.estimators.discrete.rebar import Rebar
from vijax.objectives.estimators.discrete.relax import Relax
from vijax.objectives.estimators.discrete.relaxed import GumbelSoftmax, StraightThrough
from vijax.objectives.estimators.discrete.sampled import DisARM, LeaveOneOut, LocalExpectation
from vijax.objectives.estimators.rao_blackwell import row_size

NAMES: dict[str, Estimator] = {
    "local": LocalExpectation(),
    "disarm": DisARM(),
    "leave_one_out": LeaveOneOut(),
    "rebar": Rebar(),
    "relax": Relax(),
    "gumbel_softmax": GumbelSoftmax((1.0, 0.5, 0.25, 0.1)),
    "straight_through": StraightThrough(),
}
_MOST = 16  # evaluations that local expectations may take


def check(discrete: str | Estimator) -> None:
    """Refuses what is no estimator.

    Raises:
        ValueError: naming the option.
    """
    if isinstance(discrete, Estimator) or discrete in ("auto", *NAMES):
        return
    close = difflib.get_close_matches(str(discrete), NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"discrete: expected 'auto', one of {list(NAMES)} or an estimator of "
        f"vijax.objectives.estimators.discrete, got {discrete!r}.{hint}"
    )


def select_estimator(discrete: str | Estimator, space: Space, layout: Mapping[str, TermInfo]) -> Estimator:
    """The estimator that an option stands for.

    `"auto"` is always unbiased: local expectations where they take no more than 16 evaluations,
    DisARM where every site has two values, else leave-one-out.

    Args:
        discrete: a name, an estimator or `"auto"`.
        space: the discrete sites.
        layout: of the terms that depend on them.
    """
    if isinstance(discrete, Estimator):
        return discrete
    if discrete != "auto":
        return NAMES[discrete]
    if all(site.cardinality for site in space.sites) and _evaluations(space, layout) <= _MOST:
        return LocalExpectation()
    if all(site.cardinality == 2 for site in space.sites):
        return DisARM()
    return LeaveOneOut()


def _evaluations(space: Space, layout: Mapping[str, TermInfo]) -> int:
    """What local expectations take."""
    total = 1
    for site in space.sites:
        total += row_size(site, layout) * ((site.cardinality or 1) - 1)
    return total
