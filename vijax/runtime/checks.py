"""Checks of arguments that several parts of the library take."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_count(name: str, value: Any, optional: bool = False) -> int:
    """A positive integer, as an `int`.

    Raises:
        ValueError: it is not one.
    """
    if value is None and optional:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        either = " or None" if optional else ""
        raise ValueError(f"{name}: expected a positive integer{either}, got {value!r}.")
    return int(value)
