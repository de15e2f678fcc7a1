"""When to stop a noisy optimization, and what to return: stationarity, averaging, smaller steps.

At a fixed step size stochastic gradient descent ends up wandering round the optimum. Windows of
iterates tell when it has arrived: the split R-hat of the two halves of the recent windows is
near one. From then on the average of the iterates is far better than any one of them. The step
size is then reduced and the cycle repeated until the average stops improving the ELBO on fresh
draws by more than a tolerance. Sources: Robust, Automated, and Accurate Black-box Variational
Inference, Welandawe et al., 2022; A Framework for Improving the Reliability of Black-box
Variational Inference, Welandawe et al., 2024.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import numpy as np

from vijax.contracts import PyTree

_MAX_WINDOWS = 16  # neighbors are merged beyond this, so that memory stays bounded


class Window(NamedTuple):
    """Moments of the iterates over a stretch of steps.

    Attributes:
        steps: number of steps.
        loss: mean loss.
        mean: mean of the variables, a pytree on the host.
        probe_mean: `(probes,)` the same for the probed coordinates, on the host.
        probe_var: `(probes,)` their variance within the stretch.
    """

    steps: float
    loss: float
    mean: PyTree
    probe_mean: np.ndarray
    probe_var: np.ndarray


class Phase(NamedTuple):
    """One restart at one step size: windows so far, and the best average of earlier phases.

    Attributes:
        number: number of step-size reductions so far.
        windows: oldest first, at most 16.
        best: average of the last phase that ended, `None` in the first.
        stopped: why this restart stopped, empty while it runs.
        converged: whether it stopped because there was nothing left to gain.
    """

    number: int = 0
    windows: tuple[Window, ...] = ()
    best: PyTree | None = None
    stopped: str = ""
    converged: bool = False


@dataclasses.dataclass(frozen=True)
class StopRule:
    """Configuration of the rule.

    Parameters with a row for every row of a plate are no part of the averages: they are the last
    iterates, whose noise only smaller steps reduce, and they move when their rows are seen. Use
    `by_row` where there are any.

    Args:
        tolerance: smallest gain in ELBO (nats) worth another reduction of the step size.
        rhat: split R-hat below which the iterates count as stationary.
        shrink: factor applied to the step size at the end of a phase.
        min_windows: windows needed before stationarity is judged.
        min_phases: step sizes tried before gains that are too small end the run.
        max_phases: reductions after which the rule gives up.
        flat_steps: recent steps needed before flat losses count as stationary.
        level: by how much of itself a loss may fall and still count as flat.
    """

    tolerance: float = 0.002
    rhat: float = 1.1
    shrink: float = 0.25
    min_windows: int = 4
    min_phases: int = 1
    max_phases: int = 8
    flat_steps: int = 4000
    level: float = 0.0

    @classmethod
    def without_noise(cls) -> StopRule:
        """The rule for steps without noise, which drift for ever by less and less."""
        return cls(flat_steps=400, level=0.05)

    @classmethod
    def by_row(cls, epoch: int) -> StopRule:
        """The rule for parameters by row: losses alone tell, over several epochs of `epoch` steps.

        Within the first epoch they are flat, since every row is at its start when it is seen.
        """
        return cls(rhat=0.0, flat_steps=max(cls.flat_steps, 4 * epoch), min_phases=4)

    def stationary(self, phase: Phase) -> bool:
        """Whether the recent windows of a phase wander without drifting.

        Either the variables or, after `flat_steps`, the losses must say so: parameters that are
        not identified (the rotation of a low-rank factor, the weights of a network) may drift
        for ever while the guide stands still.
        """
        windows = recent(phase, self.min_windows)
        if len(windows) < self.min_windows:
            return False
        steps = sum(window.steps for window in windows)
        return split_rhat(windows) < self.rhat or (
            steps >= self.flat_steps and flat(windows, self.level)
        )


def add(phase: Phase, window: Window) -> Phase:
    """The phase with one more window; beyond a limit the shortest two neighbors merge."""
    windows = [*phase.windows, window]
    if len(windows) > _MAX_WINDOWS:
        pairs = [a.steps + b.steps for a, b in itertools.pairwise(windows)]
        i = pairs.index(min(pairs))
        windows[i : i + 2] = [_merge(windows[i], windows[i + 1])]
    return phase._replace(windows=tuple(windows))


def recent(phase: Phase, at_least: int = 1) -> tuple[Window, ...]:
    """The windows of the later half of a phase's steps: what came before may be the way in."""
    half = sum(window.steps for window in phase.windows) / 2
    count, steps = 0, 0.0
    for window in reversed(phase.windows):
        if steps + window.steps > half and count >= at_least:
            break
        count, steps = count + 1, steps + window.steps
    return phase.windows[len(phase.windows) - count :]


def average(windows: tuple[Window, ...]) -> PyTree:
    """Mean of the iterates over some windows."""
    weights = np.array([window.steps for window in windows])
    weights = weights / weights.sum()

    def combine(*leaves: np.ndarray) -> np.ndarray:
        total = sum(weight * leaf for weight, leaf in zip(weights, leaves, strict=True))
        return np.asarray(total, leaves[0].dtype)

    return jax.tree.map(combine, *(window.mean for window in windows))


def split_rhat(windows: tuple[Window, ...]) -> float:
    """Split R-hat between two halves of the windows, with variances averaged over coordinates.

    `sqrt(1 + mean(B / W))`, `B` the variance between the halves' means, `W` the mean variance
    within them.
    """
    half = len(windows) // 2
    first, second = _pool(windows[:half]), _pool(windows[-half:])
    within = 0.5 * (first[1] + second[1])
    between = 0.5 * (first[0] - second[0]) ** 2
    if not within.size:  # nothing is followed: the losses have to tell
        return np.inf
    moving = within > 0
    if not moving.any():
        return 1.0
    return float(np.sqrt(1 + np.mean(between[moving] / within[moving])))


def flat(windows: tuple[Window, ...], level: float = 0.0) -> bool:
    """Whether the loss falls between two halves of the windows by less than two standard errors.

    Or by less than the share `level` of itself.
    """
    half = len(windows) // 2
    first = np.array([window.loss for window in windows[:half]])
    second = np.array([window.loss for window in windows[-half:]])
    error = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / half) if half > 1 else 0.0
    return bool(first.mean() - second.mean() < max(2 * error, level * abs(first.mean())))


def _pool(windows: tuple[Window, ...]) -> tuple[np.ndarray, np.ndarray]:
    pooled = windows[0]
    for window in windows[1:]:
        pooled = _merge(pooled, window, means=False)
    return pooled.probe_mean, pooled.probe_var


def _merge(a: Window, b: Window, means: bool = True) -> Window:
    """Two neighboring windows as one."""
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
