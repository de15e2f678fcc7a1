"""Effect of the corrections on means and standard deviations, by coordinate."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, styled

_MAX_ROWS = 10


def shifts(posterior: Posterior, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Plots the changes of means and standard deviations by importance weights and short chains.

    Shows the coordinates with the largest changes, largest first, as `report()` does; error bars
    are two standard errors of the chains.

    Args:
        posterior: a full-batch fit with a guide that has a density.
        axes: two, for means and for standard deviations; a new figure by default.

    Raises:
        VijaxError: the fit has no importance weights.
    """
    largest = posterior.diagnostics.corrections.head(_MAX_ROWS)
    if not len(largest):
        raise VijaxError(
            "shifts: expected a full-batch fit with a guide that has a density, got one without "
            "importance weights. See report() for other diagnostics."
        )
    method = largest.columns[0].removesuffix("_shift")
    row = np.arange(len(largest))
    with styled():
        new_figure = axes is None
        if axes is None:
            height = 1.3 + 0.28 * len(largest)
            _, pair = plt.subplots(1, 2, figsize=(7.5, height), sharey=True, layout="constrained")
            axes = (pair[0], pair[1])
        for panel, part in zip(axes, ("shift", "sd_ratio"), strict=True):
            panel.axvline(0.0, color=REFERENCE, lw=0.8)
            by_weights, _ = _changes(largest, f"{method}_{part}")
            label = "exact" if method == "exact" else "PSIS"
            panel.plot(by_weights, row - 0.15, "D", ms=4, color=GUIDE, label=label)
            if f"mcmc_{part}" in largest:
                by_chains, error = _changes(largest, f"mcmc_{part}")
                panel.errorbar(
                    by_chains, row + 0.15, xerr=2 * error, fmt="o", ms=4, lw=1.2, color=POSTERIOR,
                    label="MCMC ± 2 SE",
                )  # fmt: skip
            panel.set_yticks(row, largest.index)
            panel.set_ylim(len(largest) - 0.4, -0.6)
        axes[0].set(title="Shift of the guide's means", xlabel="standard deviations")
        axes[1].set(title="Change of its sds", xlabel="log ratio (0.1 is 10 %)")
        if new_figure:
            handles, labels = axes[1].get_legend_handles_labels()
            axes[1].figure.legend(handles, labels, loc="outside lower right", ncols=2)
    return axes


def _changes(corrections: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Shifts of means, or log ratios of sds, and their standard errors where there are any."""
    value = corrections[name].to_numpy()
    error = corrections[f"{name}_se"].to_numpy() if f"{name}_se" in corrections else 0 * value
    return (np.log(value), error / value) if name.endswith("ratio") else (value, error)
