"""Pair plot of scalars: posterior draws and contours of the guide."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vijax import Posterior, VijaxError
from vijax.plot import densities
from vijax.plot.scalars import continuous, scalars
from vijax.plot.style import GUIDE, POSTERIOR, styled
from vijax.runtime.keys import RngKey, as_key, fold_in

_MAX_SCALARS = 6
_NUM_POINTS = 800
_PROBS = (0.5, 0.9)


def pair(
    posterior: Posterior,
    sites: str | Iterable[str] | None = None,
    *,
    num_draws: int = 4000,
    rng_key: RngKey = 0,
) -> Figure:
    """Plots every pair of scalars: posterior draws as points, the guide's density as contours.

    Contours enclose 50 and 90 % of the guide's draws; the diagonal has both marginals. Points
    outside of the contours in excess of these shares show where the guide is inaccurate.

    Args:
        posterior: any fit.
        sites: sites, scalars (`"theta[3]"`) or patterns (`"theta*"`); the first four
            scalars by default.
        num_draws: number of draws from each.
        rng_key: an int, a JAX key or a legacy key.

    Raises:
        VijaxError: a site is unknown or constant, or there are too many scalars.
    """
    key = as_key(rng_key)
    draws = continuous(posterior, posterior.sample(num_draws, rng_key=fold_in(key, 0)))
    points = scalars(posterior, draws, sites, 4 if sites is None else _MAX_SCALARS)
    guide_draws = posterior.sample(num_draws, rng_key=fold_in(key, 1), corrected=False)
    guide = scalars(posterior, guide_draws, list(points), _MAX_SCALARS)
    constant = [name for name, values in guide.items() if np.ptp(values) == 0]
    if constant:
        raise VijaxError(f"sites: expected scalars that vary, got the constant {constant[0]!r}.")
    names = list(points)
    with styled():
        side = 1.9 * len(names) + 0.6
        figure, grid = plt.subplots(
            len(names), len(names), figsize=(side, side), sharex="col", squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for i, below in enumerate(names):
            for j, left in enumerate(names):
                panel = grid[i, j]
                if j > i:
                    panel.set_axis_off()
                elif i == j:
                    _marginals(panel, points[left], guide[left])
                else:
                    _plane(panel, (points[left], points[below]), (guide[left], guide[below]))
                    panel.sharey(grid[i, 0])
                if j == 0 and i > 0:
                    panel.set_ylabel(below)
                elif j > 0:
                    panel.tick_params(labelleft=False)
                if i == len(names) - 1:
                    panel.set_xlabel(left)
        figure.align_ylabels(grid[:, 0])
        marks = [
            Line2D([], [], ls="", marker="o", ms=4, color=POSTERIOR, label=posterior.status),
            Line2D([], [], color=GUIDE, label="guide, 50 and 90 %"),
        ]
        figure.legend(handles=marks, loc="upper right", bbox_to_anchor=(0.98, 0.98))
    return figure


def _marginals(axes: Axes, draws: np.ndarray, guide: np.ndarray) -> None:
    low, high = densities.view(draws, guide)
    axes.fill_between(*densities.curve(draws.astype(float), low, high), color=POSTERIOR, alpha=0.3)
    axes.plot(*densities.curve(guide.astype(float), low, high), color=GUIDE, lw=1.2)
    axes.set(xlim=(low, high), yticks=[])
    axes.set_ylim(bottom=0)
    axes.spines["left"].set_visible(False)


def _plane(
    axes: Axes, draws: tuple[np.ndarray, np.ndarray], guide: tuple[np.ndarray, np.ndarray]
) -> None:
    shown = tuple(values[:_NUM_POINTS] for values in draws)
    axes.plot(*shown, "o", ms=1.6, mew=0, alpha=0.4, color=POSTERIOR)
    xs, ys, density, levels = densities.contours(*guide, _PROBS)
    axes.contour(xs, ys, density, levels=levels, colors=GUIDE, linewidths=1.1)
    axes.set_ylim(densities.view(draws[1], guide[1]))
