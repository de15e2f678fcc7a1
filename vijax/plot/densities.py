"""Kernel density estimates: histograms smoothed by a Gaussian kernel reflected at both ends.

Reflection keeps the mass of a positive scale near zero on its support.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_BINS_1D, _BINS_2D = 400, 150
_TAIL = 0.002


def view(*draws: np.ndarray) -> tuple[float, float]:
    """An interval that contains nearly all of every sample."""
    ends = np.array([np.quantile(each, [_TAIL, 1 - _TAIL]) for each in draws])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    margin = 0.04 * (high - low)
    return float(low - margin), float(high + margin)


def curve(draws: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid between `low` and `high`, and the density of `draws` on it."""
    low, high = max(low, float(draws.min())), min(high, float(draws.max()))
    if not low < high:  # no draws in view
        return np.zeros(0), np.zeros(0)
    mass, edges = np.histogram(draws, np.linspace(low, high, _BINS_1D + 1))
    step = edges[1] - edges[0]
    # Silverman's rule of thumb (Density Estimation for Statistics and Data Analysis, 1986)
    bandwidth = 0.9 * _robust_sd(draws) * draws.size**-0.2
    density = ndimage.gaussian_filter1d(mass / (draws.size * step), bandwidth / step)
    return (edges[1:] + edges[:-1]) / 2, density


def contours(
    x: np.ndarray, y: np.ndarray, probs: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """Bivariate density, and the levels of its highest-density regions.

    Args:
        x: `(num_draws,)`.
        y: likewise.
        probs: probabilities of the regions.

    Returns:
        Grids of `x` and of `y`, the density `(len(y grid), len(x grid))`, and levels in increasing
        order, as matplotlib requires: that of the largest probability first.
    """
    ranges = [_inside(x), _inside(y)]
    mass, *edges = np.histogram2d(x, y, _BINS_2D, ranges)
    # conditional standard deviations: a wider kernel would blur a narrow ridge
    conditional = np.sqrt(max(1 - np.corrcoef(x, y)[0, 1] ** 2, 1e-4))
    widths = [
        _robust_sd(each) * conditional * x.size ** (-1 / 6) / (edge[1] - edge[0])
        for each, edge in zip((x, y), edges, strict=True)
    ]
    density = ndimage.gaussian_filter(mass, widths)
    ranked = np.sort(density, axis=None)[::-1]
    enclosed = np.cumsum(ranked) / ranked.sum()
    levels = [float(ranked[np.searchsorted(enclosed, prob)]) for prob in probs]
    xs, ys = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
    return xs, ys, density.T, sorted(levels)


def _inside(draws: np.ndarray) -> tuple[float, float]:
    """The view, restricted to the range of the draws."""
    low, high = view(draws)
    return max(low, float(draws.min())), min(high, float(draws.max()))


def _robust_sd(draws: np.ndarray) -> float:
    """The standard deviation, or that implied by the interquartile range if smaller."""
    quartiles = np.subtract(*np.quantile(draws, [0.75, 0.25])) / 1.34
    return float(min(draws.std(), quartiles) or draws.std())
