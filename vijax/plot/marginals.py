"""Marginal densities: the answer, the guide by itself, and the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vijax import Posterior
from vijax.plot import densities
from vijax.plot.prior import prior_draws
from vijax.plot.scalars import continuous, scalars
from vijax.plot.style import ANSWER, FAINT, GUIDE, styled
from vijax.runtime.keys import as_key, fold_in

_MOST, _COLUMNS = 24, 4


def marginals(
    posterior: Posterior,
    sites: Sequence[str] | None = None,
    prior: bool = True,
    rng_key: Any = 0,
    num_draws: int = 4000,
) -> Figure:
    """Densities of scalars: the posterior's draws, the guide's own, and the prior's.

    Args:
        posterior: any fit.
        sites: sites or scalars (`"theta[3]"`); the first twenty-four by default.
        prior: whether to show the prior. It shares the posterior's axis: one much wider looks flat.
        rng_key: for the draws.
        num_draws: how many of each.

    Raises:
        ModelError: the prior is improper, or the model a log density: pass `prior=False`.
        ValueError: a site is unknown, or there are too many.
    """
    key = as_key(rng_key)
    answer = continuous(posterior, posterior.sample(fold_in(key, 0), num_draws))
    columns = scalars(answer, sites, _MOST)
    corrected = posterior.status == "corrected"
    own, before = {}, {}
    if corrected:
        own = posterior.sample(fold_in(key, 1), num_draws, corrected=False)
        own = scalars(own, list(columns), _MOST)
    if prior:
        before = scalars(prior_draws(posterior, fold_in(key, 2), num_draws), list(columns), _MOST)
    with styled():
        across = min(_COLUMNS, len(columns))
        down = math.ceil(len(columns) / across)
        figure, grid = plt.subplots(
            down, across, figsize=(2.7 * across + 0.5, 2.1 * down + 0.5), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for panel, name in zip(grid.flat, columns, strict=False):
            drawn = [columns[name], *([own[name]] if own else [])]
            low, high = densities.view(*drawn)
            _curve(panel, columns[name], low, high, ANSWER, posterior.status)
            if own:
                _curve(panel, own[name], low, high, GUIDE, "the guide's own")
            top = panel.get_ylim()[1]
            if before:
                _curve(panel, before[name], low, high, FAINT, "prior")
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
    if color == ANSWER:
        axes.fill_between(grid, density, color=color, alpha=0.2, lw=0)
