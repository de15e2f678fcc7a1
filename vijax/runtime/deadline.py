"""The end of the time that a fit may take, for the loops inside solvers and diagnostics.

A loop asks `time_is_up` after each pass, so that it always has a result; without a limit it never
is, and nothing depends on the clock. The limit belongs to the context of a thread: two fits in two
threads have two.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import time
from collections.abc import Iterator

_end = contextvars.ContextVar("_end", default=math.inf)


@contextlib.contextmanager
def time_limit(max_seconds: float | None, start: float) -> Iterator[None]:
    """Sets the limit inside the block; an earlier one around it remains.

    Args:
        max_seconds: the limit, `None` for none.
        start: by `time.perf_counter`, from which it counts.
    """
    end = math.inf if max_seconds is None else start + max_seconds
    token = _end.set(min(end, _end.get()))
    try:
        yield
    finally:
        _end.reset(token)


def time_is_up() -> bool:
    """Whether the limit has passed."""
    return time.perf_counter() > _end.get()
