"""The record of the stages that an automatic fit has tried."""

from __future__ import annotations

from typing import NamedTuple


class Attempt(NamedTuple):
    """One stage of an automatic fit.

    Attributes:
        stage: name of the stage.
        guide: class name of the resulting guide.
        elbo: estimate from fresh draws, in nats.
        elbo_se: its standard error.
        khat: Pareto k-hat of the guide's importance weights.
        status: diagnosis by importance weights alone (by short chains too for a flow).
        kept: whether it replaced the best approximation so far.
        seconds: wall-clock time of the stage.
    """

    stage: str
    guide: str
    elbo: float
    elbo_se: float
    khat: float
    status: str
    kept: bool
    seconds: float
