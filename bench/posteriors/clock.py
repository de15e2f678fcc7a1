"""Time of a run, split into tracing and compilation, and the rest."""

from __future__ import annotations

import time

import jax

_PREFIX = "/jax/core/compile/"


class Clock:
    """Starts when created; records JAX's tracing and compilation events."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)
        self._started = time.perf_counter()

    def _note(self, event: str, seconds: float, **_: object) -> None:
        if event.startswith(_PREFIX):
            now = time.perf_counter()
            self._spans.append((now - seconds, now))

    def read(self) -> dict[str, float]:
        """Seconds so far: total, compilation (including tracing), and the rest."""
        total = time.perf_counter() - self._started
        compiling = covered(self._spans)
        return {"seconds": total, "compile": compiling, "solve": total - compiling}


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of a union of intervals: a function traced inside another counts once."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length
