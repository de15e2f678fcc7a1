"""How the seconds of a fit are spent."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

Part = Literal["trace", "compile", "solve", "check"]


class Timing(NamedTuple):
    """How the seconds of a fit were spent; its parts add up to them.

    Attributes:
        trace: seconds of reading the model, and of tracing and lowering programs.
        compile: seconds of compiling programs, or loading them.
        solve: seconds of finding the approximation, and all others.
        check: seconds of checking it, and of correcting draws.
        num_compiled: number of programs that were compiled.
        num_loaded: number of programs that were loaded, as an earlier process had compiled them.
    """

    trace: float = 0.0
    compile: float = 0.0
    solve: float = 0.0
    check: float = 0.0
    num_compiled: int = 0
    num_loaded: int = 0

    def __str__(self) -> str:
        programs = f"{self.num_compiled} compiled, {self.num_loaded} loaded"
        return (
            f"tracing {self.trace:.1f}, compiling {self.compile:.1f} ({programs}), "
            f"solving {self.solve:.1f}, checking {self.check:.1f}"
        )


class _Stopwatch:
    """Adds each second to the innermost part that it belongs to."""

    def __init__(self, start: float, before: Timing) -> None:
        self.timing, self.part, self._since = before, "solve", start

    def enter(self, part: str) -> str:
        """Goes on in another part; returns the one before."""
        now, outer = time.perf_counter(), self.part
        spent = getattr(self.timing, outer) + now - self._since
        self.timing = self.timing._replace(**{outer: spent})
        self.part, self._since = part, now
        return outer


_stopwatch: contextvars.ContextVar[_Stopwatch | None]
_stopwatch = contextvars.ContextVar("_stopwatch", default=None)


@contextlib.contextmanager
def timed(start: float, before: Timing | None = None) -> Iterator[None]:
    """Measures the time of a fit inside the block.

    Args:
        start: of the fit, by `time.perf_counter`.
        before: what an earlier part of the fit took.
    """
    token = _stopwatch.set(_Stopwatch(start, before or Timing()))
    try:
        yield
    finally:
        _stopwatch.reset(token)


@contextlib.contextmanager
def spent_on(part: Part) -> Iterator[None]:
    """What the fit spends inside the block is spent on this, unless a block inside says otherwise.

    Args:
        part: of the fit.
    """
    watch = _stopwatch.get()
    if watch is None:
        yield
        return
    outer = watch.enter(part)
    try:
        yield
    finally:
        watch.enter(outer)


def count_program(loaded: bool) -> None:
    """Counts a program that was loaded or compiled."""
    watch = _stopwatch.get()
    if watch is not None:
        found = watch.timing
        watch.timing = found._replace(
            num_compiled=found.num_compiled + (not loaded), num_loaded=found.num_loaded + loaded
        )


def timing_so_far() -> Timing:
    """What the fit has taken until now; nothing outside of one."""
    watch = _stopwatch.get()
    if watch is None:
        return Timing()
    watch.enter(watch.part)
    return watch.timing
