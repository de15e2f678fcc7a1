"""Comparison of models: expected log predictive densities and their differences."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from vijax import Comparison, VijaxError
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, styled


def compare(comparison: Comparison, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Plots the elpd of every model, and its difference from the best one, with standard errors.

    The difference has the smaller standard error, as its observations are paired, and is the one to
    judge by. Models for which leave-one-out is unreliable at some observations are marked.

    Args:
        comparison: of `vijax.compare`.
        axes: two, for elpd and for differences; a new figure by default.

    Raises:
        VijaxError: the comparison has no elpd.
    """
    if comparison["elpd"].isna().all():
        raise VijaxError(
            "compare: expected models with pointwise likelihoods, got a comparison without elpd. "
            "Its log_evidence compares them."
        )
    row = np.arange(len(comparison))
    with styled():
        if axes is None:
            height = 1.2 + 0.4 * len(row)
            _, pair = plt.subplots(1, 2, figsize=(7.5, height), sharey=True, layout="constrained")
            axes = (pair[0], pair[1])
        parts = zip(axes, ("elpd", "elpd_diff"), (POSTERIOR, GUIDE), strict=True)
        for panel, name, color in parts:
            value, error = comparison[name], comparison[f"{name}_se"]
            panel.axvline(value.iloc[0], color=REFERENCE, lw=0.8)
            panel.errorbar(value, row, xerr=error, fmt="o", ms=5, lw=1.4, color=color)
            panel.margins(x=0.1)
        bad = comparison["num_bad_k"]
        names = [
            f"{name}\n{num:.0f} k-hat too large" if num else str(name) for name, num in bad.items()
        ]
        axes[0].set_yticks(row, names)
        axes[0].set_ylim(len(row) - 0.5, -0.5)
        axes[0].set(title="Expected log predictive density", xlabel="elpd ± SE (nats)")
        axes[1].set(title="Difference from the best", xlabel="elpd_diff ± SE (nats)")
    return axes
