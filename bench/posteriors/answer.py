"""The result of a method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Answer(NamedTuple):
    """Draws on the host, with the diagnostics of the method.

    Attributes:
        draws: by site, `(num_draws, *shape)`.
        dim: unconstrained dimension.
        status: the status reported by the method, `""` if it has none.
        khat: Pareto k-hat, `None` if the method has none.
    """

    draws: dict[str, np.ndarray]
    dim: int
    status: str = ""
    khat: float | None = None


class Skipped(Exception):
    """This method cannot run here, for the reason in the message."""
