"""Effect of the corrections on means and standard deviations, by coordinate."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, styled
from vijax.posterior.labels import coordinate_labels

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
    shift, check = posterior._result.assessment.shift, posterior._result.assessment.check
    if shift is None:
        raise VijaxError(
            "shifts: expected a full-batch fit with a guide that has a density, got one without "
            "importance weights. See report() for other diagnostics."
        )
    size = np.maximum(np.abs(shift.mean), np.abs(shift.log_sd))
    if check is not None:
        size = np.maximum(size, np.maximum(np.abs(check.mean), np.abs(check.log_sd)))
    largest = np.argsort(-size)[:_MAX_ROWS]
    labels = coordinate_labels(posterior._result)
    names = [labels[i] for i in largest]
    row = np.arange(len(largest))
    with styled():
        new_figure = axes is None
        if axes is None:
            height = 1.3 + 0.28 * len(largest)
            _, pair = plt.subplots(1, 2, figsize=(7.5, height), sharey=True, layout="constrained")
            axes = (pair[0], pair[1])
        parts = (("mean", shift.mean), ("log_sd", shift.log_sd))
        for panel, (part, by_weights) in zip(axes, parts, strict=True):
            panel.axvline(0.0, color=REFERENCE, lw=0.8)
            panel.plot(by_weights[largest], row - 0.15, "D", ms=4, color=GUIDE, label="PSIS")
            if check is not None:
                by_chains = getattr(check, part)[largest]
                error = 2 * getattr(check, f"{part}_se")[largest]
                panel.errorbar(
                    by_chains, row + 0.15, xerr=error, fmt="o", ms=4, lw=1.2, color=POSTERIOR,
                    label="MCMC ± 2 SE",
                )  # fmt: skip
            panel.set_yticks(row, names)
            panel.set_ylim(len(largest) - 0.4, -0.6)
        axes[0].set(title="Shift of the guide's means", xlabel="standard deviations")
        axes[1].set(title="Change of its sds", xlabel="log ratio (0.1 is 10 %)")
        if new_figure:
            handles, labels = axes[1].get_legend_handles_labels()
            axes[1].figure.legend(handles, labels, loc="outside lower right", ncols=2)
    return axes
