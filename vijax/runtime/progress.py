"""What a fit is doing: a progress bar on terminals, and records of `logging` on `"vijax"`.

A stage of a fit is a block `with stage(name)`, wherever it is in the code. The bar shows the
innermost one, with the time left if its total is known; the logger gets a record at the start and
at the end of each. Without a terminal and a logging handler nothing is shown.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from vijax.runtime.deadline import is_interrupted

logger = logging.getLogger("vijax")
logger.addHandler(logging.NullHandler())

_ELAPSED = "{desc}{postfix} [{elapsed}]"  # where the total is not known
_COLUMNS = 80  # of a terminal that does not know its width
_STOPPING = "stopping; Ctrl-C again to stop at once"
_INTERVAL = 0.2  # seconds between two updates


class Stage:
    """A stage in progress.

    Args:
        name: the usual name of what is computed.
        total: number of steps, `None` if not known.
        unit: name of a step.
    """

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done: float = 0
        self.first: float = 0  # the step from which the time left counts
        self.detail = ""
        self.began = self.start = time.perf_counter()
        self.fields: dict[str, Any] = {}

    def update(self, done: float, total: int | None = None) -> None:
        """Advances to step `done`; with another `total` the time left counts from there."""
        if total is not None and total != self.total:
            self.total, self.first, self.start = total, done, time.perf_counter()
        self.done = done
        display = _display.get()
        if display is not None:
            display.show(self)

    def losses(self, step: int, losses: np.ndarray) -> None:
        """Advances to `step`, with the ELBO by the latest losses."""
        recent = losses[-100:]
        if recent.size and np.isfinite(recent).any():
            self.note(elbo=round(float(-np.nanmean(recent)), 2))
        self.update(step)

    def note(self, **fields: Any) -> None:
        """Adds fields that are logged at the end of the stage; the bar shows the ELBO."""
        self.fields |= fields
        display = _display.get()
        if display is not None and "elbo" in fields:
            display.fields = {"elbo": fields["elbo"]}


class _Bar:
    """The bar of one fit, which shows one stage at a time."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm  # its import costs more than a small fit

        width: dict[str, Any] = {"dynamic_ncols": True} if _columns() else {"ncols": _COLUMNS}
        self._bar = tqdm(desc="fit", disable=None, mininterval=_INTERVAL, **width)
        self._shown: tuple[Any, ...] = ()
        self.fields: dict[str, Any] = {}  # shown with the stage and those after it
        self._last = 0.0

    def show(self, stage: Stage) -> None:
        """Shows a stage; at once if it is another one, else a few times a second."""
        bar, now = self._bar, time.perf_counter()
        shown = (stage.name, stage.total, stage.detail)
        if bar.disable or (shown == self._shown and now - self._last < _INTERVAL):
            return
        if shown[:2] != self._shown[:2]:
            bar.reset(stage.total)
            bar.unit, bar.initial = stage.unit, stage.first
            bar.bar_format = None if stage.total else _ELAPSED
            bar.start_t += stage.start - now
        bar.set_description(stage.name + (stage.detail and f" ({stage.detail})"), refresh=False)
        bar.set_postfix(self.fields, refresh=False)
        bar.n = int(min(stage.done, stage.total or stage.done))
        bar.refresh()
        self._shown, self._last = shown, now

    def close(self) -> None:
        self._bar.close()


_display: contextvars.ContextVar[_Bar | None] = contextvars.ContextVar("_display", default=None)
_stages: contextvars.ContextVar[tuple[Stage, ...]] = contextvars.ContextVar("_stages", default=())


@contextlib.contextmanager
def show_progress(enabled: bool) -> Iterator[None]:
    """Shows the stages inside the block on a terminal."""
    bar = _Bar() if enabled else None
    token = _display.set(bar)
    try:
        yield
    finally:
        _display.reset(token)
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def stage(name: str, total: int | None = None, unit: str = "step") -> Iterator[Stage]:
    """A stage of a fit; see `Stage`."""
    outer, found = _stages.get(), Stage(name, total, unit)
    token = _stages.set((*outer, found))
    found.update(0)
    logger.info("%s: started", name, extra={"vijax": {"stage": name}})
    try:
        yield found
    finally:
        _stages.reset(token)
        _log_end(found)
        if outer:
            outer[-1].update(outer[-1].done)


def _log_end(found: Stage) -> None:
    if logger.isEnabledFor(logging.INFO):
        seconds = time.perf_counter() - found.began
        fields = {"stage": found.name, "seconds": seconds, **found.fields}
        words = "".join(f", {name} {value}" for name, value in found.fields.items())
        logger.info("%s: ended after %.2f s%s", found.name, seconds, words, extra={"vijax": fields})


def current_stage() -> Stage | None:
    """The innermost stage, `None` outside of a fit."""
    stages = _stages.get()
    return stages[-1] if stages else None


def expect(count: int, unit: str) -> None:
    """The innermost stage has so many further steps, from which the time left is estimated."""
    found = current_stage()
    if found is not None:
        found.unit = unit
        found.update(found.done, int(found.done) + count)


def advance(count: float, unit: str) -> None:
    """Advances the innermost stage, if these are the steps that it counts."""
    found = current_stage()
    if found is not None and found.unit == unit:
        found.update(found.done + count)


def tick(detail: str = "") -> None:
    """Shows that time passes; called by whatever may take long.

    Args:
        detail: what is being done, beside the name of the stage.
    """
    display, found = _display.get(), current_stage()
    if display is not None and found is not None:
        found.detail = _STOPPING if is_interrupted() else detail
        display.show(found)


def _columns() -> int:
    """Width of the terminal, 0 if it does not know."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0
