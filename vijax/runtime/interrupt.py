"""Deferral of Ctrl-C out of critical sections."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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
