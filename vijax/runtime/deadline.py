"""The end of the time that a fit may take, by `max_seconds` or by Ctrl-C.

The end has two parts. Loops inside solvers and diagnostics ask `time_is_up` after each pass, so
that they always have a result; without a limit it never is, and nothing depends on the clock. What
still runs some time after the end is left by a `KeyboardInterrupt`, see `stop_if_overdue`, and the
fit returns the last answer that it kept. Ctrl-C moves the end to now, see
`vijax.runtime.interrupt`. The limit belongs to the context of a thread: two fits in two threads
have two.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = "interrupted by Ctrl-C"
_GRACE = 0.7  # seconds from Ctrl-C until the fit is left where it is
_OVERTIME = 1.2  # the same from the end of `max_seconds`
_LATE = 0.5  # seconds of compilation past the end that are reported


class Limit:
    """The limit of one fit.

    Attributes:
        end: by `time.perf_counter`; from then on loops end.
        reason: why the time ends, empty without a limit.
        overdue: when whatever still runs is left.
        interrupted: whether Ctrl-C was pressed.
        presses: how often.
        left: whether the fit was left where it was; what remains to be done then takes no time.
        answer: builds the best result so far, `None` if there is none.
        compiling: seconds past the end in which a program was compiled.
    """

    def __init__(self, end: float = math.inf, reason: str = "") -> None:
        self.end, self.reason = end, reason
        self.overdue = end + _OVERTIME
        self.interrupted, self.presses, self.left = False, 0, False
        self.answer: Callable[[], Any] | None = None
        self.compiling = 0.0
        self._may_compile = True

    def interrupt(self) -> None:
        """Moves the end to now, for Ctrl-C."""
        now = time.perf_counter()
        self.end, self.overdue = min(self.end, now), min(self.overdue, now + _GRACE)
        self.interrupted, self.reason = True, INTERRUPTED

    def is_overdue(self) -> bool:
        """Whether what runs now is to be left."""
        return not self.left and time.perf_counter() > self.overdue

    def allow_compilation(self) -> None:
        """Allows the program that is compiling to end past `max_seconds`; once only."""
        if self._may_compile and not self.interrupted and time.perf_counter() > self.end:
            self._may_compile, self.overdue = False, math.inf

    def end_compiling(self, start: float) -> None:
        """Records the time of a compilation that began at `start`."""
        now = time.perf_counter()
        late = now - max(start, self.end)
        if late > 0:
            self.compiling += late
            if math.isinf(self.overdue):
                self.overdue = now + _OVERTIME


_limit: contextvars.ContextVar[Limit | None] = contextvars.ContextVar("_limit", default=None)
_keep: contextvars.ContextVar[Callable[[Callable[[], Any]], None] | None]
_keep = contextvars.ContextVar("_keep", default=None)


@contextlib.contextmanager
def time_limit(max_seconds: float | None, start: float) -> Iterator[Limit]:
    """Sets the limit inside the block; an earlier one around it remains.

    Args:
        max_seconds: the limit, `None` for none.
        start: by `time.perf_counter`, from which it counts.
    """
    outer = _limit.get() or Limit()
    limit = Limit(outer.end, outer.reason)
    if max_seconds is not None and start + max_seconds < outer.end:
        limit = Limit(start + max_seconds, f"max_seconds={max_seconds:g} reached")
    token = _limit.set(limit)
    try:
        yield limit
    finally:
        _limit.reset(token)


@contextlib.contextmanager
def no_time_limit() -> Iterator[None]:
    """Leaves the limit out inside the block, for the end of a part that takes hardly any time.

    What the part keeps as its answer is not that of the whole.
    """
    token = _limit.set(Limit())
    try:
        yield
    finally:
        _limit.reset(token)


def current_limit() -> Limit | None:
    """The limit of the fit that this is a part of, `None` outside of one."""
    return _limit.get()


def time_is_up() -> bool:
    """Whether the end has passed."""
    limit = _limit.get()
    return limit is not None and time.perf_counter() > limit.end


def is_interrupted() -> bool:
    """Whether the end has passed because of Ctrl-C."""
    limit = _limit.get()
    return limit is not None and limit.interrupted


def was_left() -> bool:
    """Whether the fit was left where it was, so that there is no time for anything else."""
    limit = _limit.get()
    return limit is not None and limit.left


def end_reason() -> str:
    """Why the end has passed, in words, empty if it has not."""
    limit = _limit.get()
    return limit.reason if limit is not None and time_is_up() else ""


def late_compilation() -> str:
    """How long a program was compiled past the end, in words, empty if it was not."""
    limit = _limit.get()
    if limit is None or limit.interrupted or limit.compiling < _LATE:
        return ""
    return f" ({limit.compiling:.1f} s later, the time that it took to compile the model)"


def keep_answer(answer: Callable[[], Any]) -> None:
    """Keeps how to build a result, for a fit that is left where it is; replaces earlier ones.

    Args:
        answer: returns the result, at hardly any cost.
    """
    limit = _limit.get()
    if limit is not None:
        limit.answer = answer


@contextlib.contextmanager
def partial_results(keep: Callable[[Callable[[], Any]], None]) -> Iterator[None]:
    """Passes what a solver inside the block has so far to `keep`, see `offer`.

    Args:
        keep: takes a function that returns the result, at hardly any cost. What it offers itself is
            passed to the block around this one.
    """
    outer = _keep.get()

    def inner(result: Callable[[], Any]) -> None:
        token = _keep.set(outer)
        try:
            keep(result)
        finally:
            _keep.reset(token)

    token = _keep.set(inner)
    try:
        yield
    finally:
        _keep.reset(token)


def offer(result: Callable[[], Any]) -> None:
    """Hands on the best result of a solver so far.

    Args:
        result: returns it, in the form in which the solver returns its last one.
    """
    keep = _keep.get()
    if keep is not None:
        keep(result)


def stop_if_overdue() -> None:
    """Leaves the fit where it is, by a `KeyboardInterrupt`, some time after its end."""
    limit = _limit.get()
    if limit is not None and limit.is_overdue():
        raise KeyboardInterrupt


def acknowledge() -> None:
    """Accepts the `KeyboardInterrupt` being handled as the end of the fit's time.

    Raises:
        KeyboardInterrupt: again, if Ctrl-C was pressed a second time, or outside of a fit.
    """
    limit = _limit.get()
    if limit is None or limit.presses > 1:
        raise  # the one that the caller handles
    if limit.interrupted or limit.is_overdue():
        limit.left = True
    else:  # raised by a callback, or by a handler of the program's own
        limit.interrupt()
