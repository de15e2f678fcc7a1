"""What a method comes back with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Answer(NamedTuple):
    """Draws on the host, and what the method says about them.

    Attributes:
        draws: by site, `(num_draws, *shape)`.
        dim: unconstrained dimension.
        status: the method's own verdict, `""` where it gives none.
        khat: Pareto k-hat, `None` likewise.
    """

    draws: dict[str, np.ndarray]
    dim: int
    status: str = ""
    khat: float | None = None


class Skipped(Exception):
    """This method cannot run here; the text says why."""
