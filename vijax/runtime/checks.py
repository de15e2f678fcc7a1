"""Checks of arguments that several modules share."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_count(name: str, value: Any, optional: bool = False) -> int:
    """Checks for a positive integer and returns it as an `int`; 0 for an optional `None`.

    Raises:
        ValueError: it is not a positive integer.
    """
    if value is None and optional:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        either = " or None" if optional else ""
        raise ValueError(f"{name}: expected a positive integer{either}, got {value!r}.")
    return int(value)
