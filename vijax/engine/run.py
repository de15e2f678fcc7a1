"""The state of a run of gradient steps, and its budget."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from vijax.diagnostics.nonfinite import NonFinite
from vijax.engine.loop import Loop
from vijax.engine.stopping import Phase

_MAX_STEPS = 500_000  # limit of a fit without num_steps


class Run(NamedTuple):
    """The state of a run, from which it can be resumed exactly.

    Attributes:
        loop: device state, restarts stacked.
        step: number of steps taken.
        window_start: step at which the current window started.
        phases: the stopping rule's state, one per restart.
        losses: `(step, restarts)`, `nan` where a restart had stopped.
        guarded: whether every step is checked, because a non-finite one has occurred.
        nonfinite_steps: the first non-finite step, empty if there was none.
        reason: why the run ended, empty while it is running.
        converged: whether it ended by the stopping rule's convergence criterion.
        factors: learning-rate factor of each restart.
    """

    loop: Loop
    step: int
    window_start: int
    phases: tuple[Phase, ...]
    losses: np.ndarray
    guarded: bool = False
    nonfinite_steps: tuple[NonFinite, ...] = ()
    reason: str = ""
    converged: bool = False
    factors: tuple[float, ...] = (1.0,)

    @property
    def active(self) -> np.ndarray:
        """Mask of the restarts that have not stopped, `(restarts,)`."""
        return np.array([not phase.stopped for phase in self.phases])

    @property
    def curves(self) -> np.ndarray:
        """The losses as passed to callbacks: `(step,)` if there is only one restart."""
        return self.losses[:, 0] if self.losses.shape[1] == 1 else self.losses

    def resumed(self) -> Run:
        """The run with its stop reason cleared; if every restart had stopped, all are resumed."""
        phases = self.phases
        if all(phase.stopped for phase in phases):
            phases = tuple(phase._replace(stopped="", converged=False) for phase in phases)
        return self._replace(phases=phases, reason="")


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on the steps and the time of a run.

    Args:
        num_steps: total number of steps; `None` runs until converged.
        max_seconds: wall-clock limit.
    """

    num_steps: int | None = None
    max_seconds: float | None = None

    @property
    def max_steps(self) -> int:
        """The maximum number of steps."""
        return _MAX_STEPS if self.num_steps is None else self.num_steps

    def stop_reason(self, step: int, seconds: float) -> str:
        """The limit that is reached, empty if none is."""
        if step >= self.max_steps:
            return f"num_steps={self.max_steps} reached"
        if self.max_seconds is not None and seconds > self.max_seconds:
            return f"max_seconds={self.max_seconds:g} reached"
        return ""
