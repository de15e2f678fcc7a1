"""The input of a method, and the reference for its draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """A model with its arguments and reference draws.

    Attributes:
        model: a NumPyro model function.
        args: its positional arguments.
        reference: draws of the posterior by site, `(num_draws, *shape)`; only these are scored.
        name: of the posterior, by which libraries that do not accept NumPyro models find theirs.
        robust: score medians and quartiles, if moments do not exist or are hard to estimate.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    reference: dict[str, np.ndarray]
    name: str = ""
    robust: bool = False
