"""The state of a run of gradient steps, and its budget."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from vijax.diagnostics.nonfinite import NonFinite
from vijax.engine.loop import Loop
from vijax.engine.stopping import Phase

_MAX_STEPS = 500_000  # where a fit without a step limit gives up


class Run(NamedTuple):
    """Everything needed to continue exactly where a run stopped.

    Attributes:
        loop: device state, restarts stacked.
        step: steps taken.
        window: step at which the current window began.
        phases: the stopping rule's memory, one per restart.
        losses: `(step, restarts)`, `nan` where a restart had stopped.
        guarded: whether steps are checked one by one, since a non-finite one occurred.
        nonfinite_steps: non-finite steps, the first of each restart.
        reason: why the run ended.
        converged: whether it ended because nothing was left to gain.
        factors: step-size factor of each restart.
    """

    loop: Loop
    step: int
    window: int
    phases: tuple[Phase, ...]
    losses: np.ndarray
    guarded: bool = False
    nonfinite_steps: tuple[NonFinite, ...] = ()
    reason: str = ""
    converged: bool = False
    factors: tuple[float, ...] = (1.0,)

    @property
    def active(self) -> np.ndarray:
        """Which restarts have not stopped, `(restarts,)`."""
        return np.array([not phase.stopped for phase in self.phases])

    @property
    def curves(self) -> np.ndarray:
        """The losses as callbacks see them: `(step,)` where there is one restart."""
        return self.losses[:, 0] if self.losses.shape[1] == 1 else self.losses

    def awake(self) -> Run:
        """A run that continues: if every restart had stopped, all of them do."""
        phases = self.phases
        if all(phase.stopped for phase in phases):
            phases = tuple(phase._replace(stopped="", converged=False) for phase in phases)
        return self._replace(phases=phases, reason="")


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop at the latest, and whether to stop before that.

    Args:
        num_steps: steps in all; `None` runs until converged.
        max_seconds: wall-clock limit.
    """

    num_steps: int | None = None
    max_seconds: float | None = None

    @property
    def last(self) -> int:
        """The step at which the run ends at the latest."""
        return _MAX_STEPS if self.num_steps is None else self.num_steps

    def spent(self, step: int, seconds: float) -> str:
        """Why a run ends here, empty if it does not."""
        if step >= self.last:
            return f"num_steps={self.last} reached"
        if self.max_seconds is not None and seconds > self.max_seconds:
            return f"max_seconds={self.max_seconds:g} reached"
        return ""
