"""Ctrl-C during a fit: the first ends its time, the second stops it.

The first press only moves the end of the fit's time to now, see `vijax.runtime.deadline`, so that
all loops end with a result. If something is still running a moment later, such as the tracing of a
model, the main thread is interrupted where it is, and the fit returns its last answer.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from vijax.runtime.deadline import Limit, acknowledge, time_limit
from vijax.runtime.errors import warn
from vijax.runtime.stopwatch import Timing, timed

T = TypeVar("T")

_AGAIN = 0.2  # seconds until an interrupt that had no effect is repeated


class _Interrupts:
    """The handler of SIGINT during a fit.

    Args:
        limit: of the fit.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.deferred = 0  # critical sections that the main thread is in
        self._pending = self._due = self._closed = False
        self._lock = threading.Lock()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        limit = self.limit
        if self._due:
            self._due = False
            if not _collects_garbage(frame):
                self._leave()
        elif limit.presses:
            limit.presses += 1
            raise KeyboardInterrupt
        else:
            limit.presses = 1
            limit.interrupt()
            # `threading.Thread` takes locks, which the interrupted code may hold
            _thread.start_new_thread(self._remind, ())

    def _remind(self) -> None:
        """Interrupts the main thread once the fit is overdue."""
        time.sleep(max(0.0, self.limit.overdue - time.perf_counter()))
        while not (self._closed or self.limit.left):
            with self._lock:
                if not self._closed:
                    self._due = True
                    _thread.interrupt_main()
            time.sleep(_AGAIN)  # where it had no effect

    def _leave(self) -> None:
        if self.limit.left or self._closed:
            return
        if self.deferred:
            self._pending = True
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def defer(self) -> Iterator[None]:
        """Leaves the fit at the end of the block rather than inside; a second press at once."""
        self.deferred += 1
        try:
            yield
        finally:
            self.deferred -= 1
        if self._pending and not self.deferred:
            self._pending = False
            self._leave()

    def close(self) -> None:
        with self._lock:
            self._closed = True


def _collects_garbage(frame: FrameType | None) -> bool:
    """Whether this is inside of JAX's callback for that, where an exception is only printed."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def ctrl_c_ends(limit: Limit) -> Iterator[None]:
    """Lets Ctrl-C end the time of a fit inside the block; a second press stops it.

    Not in other threads than the main one, which alone receives SIGINT, nor where the program has
    a handler of its own: a `KeyboardInterrupt` that this raises ends the fit likewise.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupts = _Interrupts(limit)
    signal.signal(signal.SIGINT, interrupts)
    try:
        yield
    finally:
        interrupts.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def best_answer(
    compute: Callable[[], T],
    max_seconds: float | None,
    start: float,
    name: str,
    before: Timing | None = None,
) -> T:
    """The result of a fit, or the best one so far when its time ends, with a warning on Ctrl-C.

    Args:
        compute: the fit, which passes what it has so far to `vijax.runtime.deadline.keep_answer`.
        max_seconds: its time, `None` for any.
        start: by `time.perf_counter`, from which that counts.
        name: of the public function.
        before: what an earlier part of the fit took.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C, or at the first if there is no answer yet.
    """
    limited = time_limit(max_seconds, start)
    with timed(start, before), limited as limit, ctrl_c_ends(limit):
        try:
            answer = compute()
            limit.left = True  # there is nothing more to be interrupted
        except KeyboardInterrupt as error:
            acknowledge()
            if limit.answer is None:
                error.add_note(f"{name}: interrupted before it had any result to return.")
                raise
            answer = limit.answer()
    if limit.interrupted:
        seconds = time.perf_counter() - start
        warn(
            f"{name}: interrupted by Ctrl-C after {seconds:.1f} s. This is the best result so far; "
            "its report() says what was not checked. A second Ctrl-C ends a fit without a result."
        )
    return answer


@contextlib.contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defers a first Ctrl-C to the end of the block; a second one interrupts at once."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main thread receives SIGINT
        yield
        return
    pending: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(number)

    before = signal.getsignal(signal.SIGINT)
    if isinstance(before, _Interrupts):
        with before.defer():
            yield
        return
    if before is None:  # a handler not installed from Python, which cannot be restored
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            signal.raise_signal(signal.SIGINT)
