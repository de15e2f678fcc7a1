"""What corrections would change, coordinate by coordinate."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from vijax import Posterior, VijaxError
from vijax.plot.style import ANSWER, FAINT, GUIDE, styled

_WORST = 10


def shifts(posterior: Posterior, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """By how much importance weights and short chains move means and standard deviations.

    The coordinates that they would change most, worst first, as in `report()`; error bars are two
    standard errors of the chains.

    Args:
        posterior: a fit on all data by a guide with a density.
        axes: two, for means and for standard deviations; a new figure by default.

    Raises:
        VijaxError: nothing has been compared.
    """
    moved, check = posterior._result.assessment.shift, posterior._result.assessment.check
    if moved is None:
        raise VijaxError(
            "shifts: expected a fit on all data by a guide with a density, got one without "
            "importance weights. report() says what there is instead."
        )
    badness = np.maximum(np.abs(moved.mean), np.abs(moved.log_sd))
    if check is not None:
        badness = np.maximum(badness, np.maximum(np.abs(check.mean), np.abs(check.log_sd)))
    worst = np.argsort(-badness)[:_WORST]
    names = [posterior.space.coordinates()[i] for i in worst]
    row = np.arange(len(worst))
    with styled():
        alone = axes is None
        if axes is None:
            height = 1.3 + 0.28 * len(worst)
            _, pair = plt.subplots(1, 2, figsize=(7.5, height), sharey=True, layout="constrained")
            axes = (pair[0], pair[1])
        parts = (("mean", moved.mean), ("log_sd", moved.log_sd))
        for panel, (part, by_weights) in zip(axes, parts, strict=True):
            panel.axvline(0.0, color=FAINT, lw=0.8)
            panel.plot(by_weights[worst], row - 0.15, "D", ms=4, color=GUIDE, label="weights")
            if check is not None:
                by_chains = getattr(check, part)[worst]
                error = 2 * getattr(check, f"{part}_se")[worst]
                panel.errorbar(
                    by_chains, row + 0.15, xerr=error, fmt="o", ms=4, lw=1.2, color=ANSWER,
                    label="chains, ± 2 standard errors",
                )  # fmt: skip
            panel.set_yticks(row, names)
            panel.set_ylim(len(worst) - 0.4, -0.6)
        axes[0].set(title="The guide's means move by", xlabel="posterior standard deviations")
        axes[1].set(title="Its standard deviations by", xlabel="log ratio (0.1 is 10 %)")
        if alone:
            handles, labels = axes[1].get_legend_handles_labels()
            axes[1].figure.legend(handles, labels, loc="outside lower right", ncols=2)
    return axes
