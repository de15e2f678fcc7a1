"""Marginal densities of posterior, guide and prior."""

from __future__ import annotations

import math
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vijax import Posterior
from vijax.plot import densities
from vijax.plot.scalars import continuous, scalars
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, styled
from vijax.posterior.prior import prior_of
from vijax.runtime.keys import RngKey, as_key, fold_in

_MAX_SCALARS, _COLUMNS = 24, 4


def marginals(
    posterior: Posterior,
    sites: str | Iterable[str] | None = None,
    *,
    prior: bool = True,
    num_draws: int = 4000,
    rng_key: RngKey = 0,
) -> Figure:
    """Plots marginal densities of posterior draws, of the guide's draws, and of the prior.

    Args:
        posterior: any fit.
        sites: sites, scalars (`"theta[3]"`) or patterns (`"theta*"`); the first
            twenty-four by default.
        prior: whether to show the prior, on the posterior's axis: a much wider one looks flat.
        num_draws: number of draws from each.
        rng_key: an int, a JAX key or a legacy key.

    Raises:
        ModelError: the prior is improper, or the model a log density: pass `prior=False`.
        VijaxError: a site is unknown, or there are too many scalars.
    """
    key = as_key(rng_key)
    draws = continuous(posterior, posterior.sample(num_draws, rng_key=fold_in(key, 0)))
    columns = scalars(posterior, draws, sites, _MAX_SCALARS)
    names, guide_columns, prior_columns = list(columns), {}, {}
    if posterior.status == "corrected":
        guide_draws = posterior.sample(num_draws, rng_key=fold_in(key, 1), corrected=False)
        guide_columns = scalars(posterior, guide_draws, names, _MAX_SCALARS)
    if prior:
        before = prior_of(posterior._result).sample(num_draws, rng_key=fold_in(key, 2))
        prior_columns = scalars(posterior, before, names, _MAX_SCALARS)
    with styled():
        across = min(_COLUMNS, len(columns))
        down = math.ceil(len(columns) / across)
        figure, grid = plt.subplots(
            down, across, figsize=(2.7 * across + 0.5, 2.1 * down + 0.5), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for panel, name in zip(grid.flat, columns, strict=False):
            shown = [columns[name], *([guide_columns[name]] if guide_columns else [])]
            low, high = densities.view(*shown)
            _curve(panel, columns[name], low, high, POSTERIOR, posterior.status)
            if guide_columns:
                _curve(panel, guide_columns[name], low, high, GUIDE, "guide")
            top = panel.get_ylim()[1]
            if prior_columns:
                _curve(panel, prior_columns[name], low, high, REFERENCE, "prior")
            panel.set(title=name, yticks=[], xlim=(low, high), ylim=(0, top))
            panel.spines["left"].set_visible(False)
        for panel in grid.flat[len(columns) :]:
            panel.set_axis_off()
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def _curve(axes: Axes, draws: np.ndarray, low: float, high: float, color: str, label: str) -> None:
    if np.ptp(draws) == 0:  # a point mass
        axes.axvline(draws[0], color=color, label=label)
        return
    grid, density = densities.curve(draws.astype(float), low, high)
    axes.plot(grid, density, color=color, lw=1.4, label=label)
    if color == POSTERIOR:
        axes.fill_between(grid, density, color=color, alpha=0.2, lw=0)
