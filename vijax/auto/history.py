"""What an automatic fit has tried."""

from __future__ import annotations

from typing import NamedTuple


class Attempt(NamedTuple):
    """One stage of the stages.

    Attributes:
        stage: what was tried.
        guide: the guide it led to.
        elbo: from fresh draws, in nats.
        elbo_se: its standard error.
        khat: Pareto k-hat of the guide's weights.
        status: the verdict so far, from the weights alone.
        kept: whether it was better than what was there.
        seconds: that it took.
    """

    stage: str
    guide: str
    elbo: float
    elbo_se: float
    khat: float
    status: str
    kept: bool
    seconds: float
