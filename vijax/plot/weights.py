"""Histogram of the log importance weights."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.diagnostics.importance import describe_khat, khat_threshold
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, axes_or_new, styled

_BINS = 60
_DEPTH = 1.5  # extent of the axis below the mean, relative to that above
_TOP = 0.75  # height of vertical lines, as a share: the legend is above


def weights(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """Plots a histogram of the log weights `log p - log q` of the guide's draws, with k-hat.

    They are nearly constant if the guide is accurate. Draws to the right represent regions that
    the guide undersamples: the heavier that tail, the larger k-hat (Pareto Smoothed Importance
    Sampling, Vehtari, Simpson, Gelman, Yao, Gabry, 2024).

    Args:
        posterior: a full-batch fit with a guide that has a density.
        axes: axes to draw on; a new figure by default.

    Raises:
        VijaxError: the fit has no importance weights.
    """
    found = posterior._result.assessment.importance
    if found is None:
        raise VijaxError(
            "weights: expected a full-batch fit with a guide that has a density, got one without "
            "importance weights. See report() for other diagnostics."
        )
    log_w = posterior._result.assessment.draws.log_weights
    finite = log_w[np.isfinite(log_w)]
    centered = finite - finite.mean()
    limit = khat_threshold(log_w.size)
    with styled():
        axes = axes_or_new(axes)
        high = max(centered.max(), 1e-3)
        low = max(min(centered.min(), -1e-3), -_DEPTH * high)  # lower values count in the first bin
        edges = np.linspace(low, high, _BINS + 1).tolist()
        axes.hist(np.maximum(centered, low), edges, color=POSTERIOR, alpha=0.6)
        gap = found.log_evidence - finite.mean()
        axes.axvline(
            0.0, 0, _TOP, color=REFERENCE, lw=1, ls="--", label="ELBO: mean of the log weights"
        )
        label = "log evidence"
        axes.axvline(gap, 0, _TOP, color=GUIDE, lw=1.2, label=label)
        reliable = "reliable" if found.khat < limit else "not reliable"
        title = f"{describe_khat(found.khat)}: {reliable} (limit {limit:.2f}), "
        title += f"ESS {found.ess:.0f} of {log_w.size} draws"
        axes.set(title=title, xlabel="log weight less its mean (nats)", ylabel="draws (log scale)")
        axes.set_yscale("log")
        axes.set_ylim(0.7, axes.get_ylim()[1] * 8)
        axes.legend(loc="upper left")
    return axes
