"""Importance weights and their Pareto shape."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.diagnostics.importance import khat_threshold
from vijax.plot.style import ANSWER, FAINT, GUIDE, axes_or_new, styled

_BINS = 60
_DEPTH = 1.5  # how far below the mean, over how far above, the figure reaches
_TOP = 0.75  # height of lines, as a share: above is the legend


def weights(posterior: Posterior, axes: Axes | None = None) -> Axes:
    """Histogram of the log weights `log p - log q` of the guide's draws, with k-hat.

    A good guide has them close together. Draws to the right stand for regions that the guide
    visits too seldom: the heavier that tail, the larger k-hat (Pareto Smoothed Importance
    Sampling, Vehtari, Simpson, Gelman, Yao, Gabry, 2024).

    Args:
        posterior: a fit on all data by a guide with a density.
        axes: where to draw; a new figure by default.

    Raises:
        VijaxError: the fit has no weights.
    """
    found = posterior._result.assessment.importance
    if found is None:
        raise VijaxError(
            "weights: expected a fit on all data by a guide with a density, got one without "
            "importance weights. report() says what there is instead."
        )
    log_w = posterior._result.assessment.draws.log_weights
    finite = log_w[np.isfinite(log_w)]
    centered = finite - finite.mean()
    limit = khat_threshold(log_w.size)
    with styled():
        axes = axes_or_new(axes)
        high = max(centered.max(), 1e-3)
        low = max(min(centered.min(), -1e-3), -_DEPTH * high)  # what is below counts as there
        edges = np.linspace(low, high, _BINS + 1).tolist()
        axes.hist(np.maximum(centered, low), edges, color=ANSWER, alpha=0.6)
        gap = found.log_evidence - finite.mean()
        axes.axvline(
            0.0, 0, _TOP, color=FAINT, lw=1, ls="--", label="ELBO: mean of the log weights"
        )
        label = "log evidence: log of the mean weight"
        axes.axvline(gap, 0, _TOP, color=GUIDE, lw=1.2, label=label)
        verdict = "reliable" if found.khat < limit else "not reliable"
        title = f"k-hat {found.khat:.2f}: {verdict} (limit {limit:.2f}), "
        title += f"{found.ess:.0f} effective of {log_w.size} draws"
        axes.set(title=title, xlabel="log weight less its mean (nats)", ylabel="draws (log scale)")
        axes.set_yscale("log")
        axes.set_ylim(0.7, axes.get_ylim()[1] * 8)
        axes.legend(loc="upper left")
    return axes
