"""Where the seconds of a run go: tracing and compiling against everything else."""

from __future__ import annotations

import time

import jax

_PREFIX = "/jax/core/compile/"


class Clock:
    """Runs from its making; listens to JAX for the times at which it traces and compiles."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)
        self._began = time.perf_counter()

    def _note(self, event: str, seconds: float, **_: object) -> None:
        if event.startswith(_PREFIX):
            now = time.perf_counter()
            self._spans.append((now - seconds, now))

    def read(self) -> dict[str, float]:
        """Seconds so far in all, in compilation (tracing included), and in the rest."""
        total = time.perf_counter() - self._began
        compiling = covered(self._spans)
        return {"seconds": total, "compile": compiling, "solve": total - compiling}


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of a union of intervals: a function traced inside another counts once."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length
