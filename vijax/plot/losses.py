"""The loss of every step, and where it stopped."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import ANSWER, FAINT, GUIDE, axes_or_new, styled

_WINDOWS = 100  # in the whole fit, of the moving average
_SHOWN = 0.5  # share of the last steps that says which losses are in view
_TOP = 0.72  # height of the line at the stop, as a share: above is the legend
_LINE = 60  # characters of the stop reason in a line


def losses(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """Negative ELBO estimates by step or round, the final ELBO, and the stop with its reason.

    Args:
        posterior: a fit by gradient steps, or by a direct solver that estimates ELBOs.
        axes: where to draw; a new figure by default.

    Raises:
        VijaxError: the fit has no losses.
    """
    values = np.asarray(posterior.losses, float)
    if not values.size:
        raise VijaxError(
            "losses: expected a fit that records losses, got one by a direct solver that makes "
            "none. Draw stages(posterior), or fit with algorithm='gradient'."
        )
    with styled():
        axes = axes_or_new(axes)
        steps = np.arange(1, len(values) + 1)
        single = values.reshape(len(values), -1).min(axis=1)  # of several restarts the best
        window = max(1, len(single) // _WINDOWS)
        if window > 1:
            axes.plot(steps, single, color=FAINT, alpha=0.5, lw=0.3, label="each step")
            average = np.convolve(single, np.full(window, 1 / window), "valid")
            label = f"average of {window} steps"
            axes.plot(steps[window - 1 :], average, color=ANSWER, lw=1.5, label=label)
        else:
            axes.plot(steps, single, "o-", color=ANSWER, ms=3, lw=1, label="each round")
        label = f"ELBO at the end, {posterior.elbo:.2f}"
        axes.axhline(-posterior.elbo, color=GUIDE, lw=1, ls="--", label=label)
        axes.axvline(steps[-1], 0, _TOP, color=GUIDE, lw=1)
        axes.plot(steps[-1], -posterior.elbo, "o", color=GUIDE, ms=5)
        _view(axes, single, -posterior.elbo)
        unit = "round" if posterior._result.run is None else "gradient step"
        reason = textwrap.fill(f"stopped: {posterior.stop_reason}", _LINE)
        axes.set(xlabel=unit, ylabel="negative ELBO (nats)", title=reason)
        axes.title.set_fontsize("small")
        axes.legend(loc="upper right", borderaxespad=0)
    return axes


def _view(axes: Axes, values: np.ndarray, end: float) -> None:
    """Limits that show where the fit settled: the first losses may be thousands of times larger."""
    late = values[int(len(values) * (1 - _SHOWN)) :]
    late = np.append(late[np.isfinite(late)], end)
    low, high = np.quantile(late, [0.005, 0.995])
    spread = max(high - low, 0.1)
    axes.set_ylim(min(low, end) - 0.3 * spread, high + 1.2 * spread)
