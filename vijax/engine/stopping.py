"""Stopping rule for stochastic optimization: stationarity test, iterate averaging, annealing.

At a fixed learning rate the iterates of stochastic gradient descent converge to a stationary
distribution around the optimum. Stationarity is detected when the split R-hat between the two
halves of the recent windows of iterates is close to one; from then on the average of the iterates
is far more accurate than any single one. The learning rate is then reduced, and the cycle repeated
until the average no longer improves the ELBO on fresh draws by more than a tolerance. Sources:
Robust, Automated, and Accurate Black-box Variational Inference, Welandawe et al., 2022; A Framework
for Improving the Reliability of Black-box Variational Inference, Welandawe et al., 2024.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import numpy as np

from vijax.contracts import PyTree

_MAX_WINDOWS = 16  # adjacent windows are merged beyond this, which bounds the memory


class Window(NamedTuple):
    """Moments of the iterates over consecutive steps.

    Attributes:
        steps: number of steps.
        loss: mean loss.
        mean: mean of the variables, a pytree on the host.
        probe_mean: `(probes,)` mean of the probed coordinates, on the host.
        probe_var: `(probes,)` their variance within the window.
    """

    steps: float
    loss: float
    mean: PyTree
    probe_mean: np.ndarray
    probe_var: np.ndarray


class Phase(NamedTuple):
    """One restart at one learning rate: its windows, and the best average of earlier phases.

    Attributes:
        number: number of earlier phases.
        windows: oldest first, at most 16.
        best: best average of the earlier phases, `None` in the first.
        stopped: why this restart stopped, empty while it runs.
        converged: whether it stopped by the convergence criterion.
    """

    number: int = 0
    windows: tuple[Window, ...] = ()
    best: PyTree | None = None
    stopped: str = ""
    converged: bool = False


@dataclasses.dataclass(frozen=True)
class StopRule:
    """Configuration of the stopping rule.

    Per-row parameters are not averaged: their last iterates are returned, whose noise only smaller
    learning rates reduce, and which change only when their rows are in a batch. Use
    `for_row_params` if there are any.

    Args:
        tolerance: gain in ELBO (nats) below which the fit has converged.
        rhat: split R-hat below which the iterates count as stationary.
        shrink: factor applied to the learning rate at the end of a phase.
        min_windows: windows required for the stationarity test.
        min_phases: learning rates required for convergence.
        max_phases: learning rates after which the run ends without convergence.
        flat_steps: recent steps required before flat losses count as stationary.
        relative_tolerance: relative decrease of the loss that still counts as flat.
    """

    tolerance: float = 0.002
    rhat: float = 1.1
    shrink: float = 0.25
    min_windows: int = 4
    min_phases: int = 1
    max_phases: int = 8
    flat_steps: int = 4000
    relative_tolerance: float = 0.0

    @classmethod
    def deterministic(cls) -> StopRule:
        """The rule for steps without noise, whose iterates keep drifting at a decreasing rate."""
        return cls(flat_steps=400, relative_tolerance=0.05)

    @classmethod
    def for_row_params(cls, epoch: int) -> StopRule:
        """The rule for per-row parameters: by losses only, over four epochs of `epoch` steps.

        Losses are flat in the first epoch, when every row's parameters have their initial values.
        """
        return cls(rhat=0.0, flat_steps=max(cls.flat_steps, 4 * epoch), min_phases=4)

    def stationary(self, phase: Phase) -> bool:
        """Whether the recent windows of a phase show no trend.

        Tested by the variables or, after `flat_steps`, by the losses: parameters that are not
        identified (the rotation of a low-rank factor, the weights of a network) may drift
        indefinitely while the guide's distribution does not change.
        """
        windows = recent(phase, self.min_windows)
        if len(windows) < self.min_windows:
            return False
        steps = sum(window.steps for window in windows)
        return split_rhat(windows) < self.rhat or (
            steps >= self.flat_steps and is_flat(windows, self.relative_tolerance)
        )


def add_window(phase: Phase, window: Window) -> Phase:
    """The phase with one more window; at the limit the shortest adjacent pair is merged."""
    windows = [*phase.windows, window]
    if len(windows) > _MAX_WINDOWS:
        pairs = [a.steps + b.steps for a, b in itertools.pairwise(windows)]
        i = pairs.index(min(pairs))
        windows[i : i + 2] = [_merge(windows[i], windows[i + 1])]
    return phase._replace(windows=tuple(windows))


def recent(phase: Phase, at_least: int = 1) -> tuple[Window, ...]:
    """The windows of the second half of a phase's steps, without its initial transient."""
    half = sum(window.steps for window in phase.windows) / 2
    count, steps = 0, 0.0
    for window in reversed(phase.windows):
        if steps + window.steps > half and count >= at_least:
            break
        count, steps = count + 1, steps + window.steps
    return phase.windows[len(phase.windows) - count :]


def average(windows: tuple[Window, ...]) -> PyTree:
    """Mean of the iterates over some windows, weighted by their steps."""
    weights = np.array([window.steps for window in windows])
    weights = weights / weights.sum()

    def combine(*leaves: np.ndarray) -> np.ndarray:
        total = sum(weight * leaf for weight, leaf in zip(weights, leaves, strict=True))
        return np.asarray(total, leaves[0].dtype)

    return jax.tree.map(combine, *(window.mean for window in windows))


def split_rhat(windows: tuple[Window, ...]) -> float:
    """Split R-hat between the two halves of the windows, over all probed coordinates.

    `sqrt(1 + mean(B / W))`, `B` the variance between the halves' means, `W` the mean variance
    within the halves.
    """
    half = len(windows) // 2
    first, second = _pool(windows[:half]), _pool(windows[-half:])
    within = 0.5 * (first[1] + second[1])
    between = 0.5 * (first[0] - second[0]) ** 2
    if not within.size:  # no probed coordinates: stationarity is tested by the losses
        return np.inf
    moving = within > 0
    if not moving.any():
        return 1.0
    return float(np.sqrt(1 + np.mean(between[moving] / within[moving])))


def is_flat(windows: tuple[Window, ...], relative_tolerance: float = 0.0) -> bool:
    """Whether the loss falls between the halves of the windows by less than two standard errors.

    Or by less than `relative_tolerance` times its absolute value.
    """
    half = len(windows) // 2
    first = np.array([window.loss for window in windows[:half]])
    second = np.array([window.loss for window in windows[-half:]])
    error = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / half) if half > 1 else 0.0
    tolerance = relative_tolerance * abs(first.mean())
    return bool(first.mean() - second.mean() < max(2 * error, tolerance))


def _pool(windows: tuple[Window, ...]) -> tuple[np.ndarray, np.ndarray]:
    pooled = windows[0]
    for window in windows[1:]:
        pooled = _merge(pooled, window, means=False)
    return pooled.probe_mean, pooled.probe_var


def _merge(a: Window, b: Window, means: bool = True) -> Window:
    """The union of two adjacent windows."""
    steps = a.steps + b.steps
    share = b.steps / steps
    shift = b.probe_mean - a.probe_mean
    return Window(
        steps=steps,
        loss=a.loss + share * (b.loss - a.loss),
        mean=average((a, b)) if means else a.mean,
        probe_mean=a.probe_mean + share * shift,
        probe_var=a.probe_var
        + share * (b.probe_var - a.probe_var)
        + share * (1 - share) * shift**2,
    )
