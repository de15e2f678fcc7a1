"""Trace of the loss, with the final ELBO and the reason to stop."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, axes_or_new, styled

_WINDOWS = 100  # windows of the moving average in a fit
_SHOWN = 0.5  # share of the last steps that determine the limits of the axis
_TOP = 0.72  # height of the vertical line, as a share: the legend is above
_LINE = 60  # characters per line of the stop reason


def losses(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """Plots negative ELBO estimates by gradient step or solver iteration, and the final ELBO.

    Args:
        posterior: a fit by gradient steps, or by a direct solver that records ELBO estimates.
        axes: axes to draw on; a new figure by default.

    Raises:
        VijaxError: the fit has no losses.
    """
    values = np.asarray(posterior.losses, float)
    if not values.size:
        raise VijaxError(
            "losses: expected a fit with losses, got one by a direct solver that records none. "
            "Draw stages(posterior), or fit with algorithm='gradient'."
        )
    with styled():
        axes = axes_or_new(axes)
        steps = np.arange(1, len(values) + 1)
        single = values.reshape(len(values), -1).min(axis=1)  # the best restart
        window = max(1, len(single) // _WINDOWS)
        if window > 1:
            axes.plot(steps, single, color=REFERENCE, alpha=0.5, lw=0.3, label="each step")
            average = np.convolve(single, np.full(window, 1 / window), "valid")
            label = f"average of {window} steps"
            axes.plot(steps[window - 1 :], average, color=POSTERIOR, lw=1.5, label=label)
        else:
            axes.plot(steps, single, "o-", color=POSTERIOR, ms=3, lw=1, label="each iteration")
        label = f"final ELBO, {posterior.elbo:.2f}"
        axes.axhline(-posterior.elbo, color=GUIDE, lw=1, ls="--", label=label)
        axes.axvline(steps[-1], 0, _TOP, color=GUIDE, lw=1)
        axes.plot(steps[-1], -posterior.elbo, "o", color=GUIDE, ms=5)
        _view(axes, single, -posterior.elbo)
        unit = "iteration" if posterior._result.run is None else "gradient step"
        reason = textwrap.fill(f"stopped: {posterior.stop_reason}", _LINE)
        axes.set(xlabel=unit, ylabel="negative ELBO (nats)", title=reason)
        axes.title.set_fontsize("small")
        axes.legend(loc="upper right", borderaxespad=0)
    return axes


def _view(axes: Axes, values: np.ndarray, end: float) -> None:
    """Sets limits by the last losses: the first ones may be thousands of times larger."""
    late = values[int(len(values) * (1 - _SHOWN)) :]
    late = np.append(late[np.isfinite(late)], end)
    low, high = np.quantile(late, [0.005, 0.995])
    height = max(high - low, 0.1)
    axes.set_ylim(min(low, end) - 0.3 * height, high + 1.2 * height)
