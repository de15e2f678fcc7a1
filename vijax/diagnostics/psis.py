"""Pareto-smoothed importance sampling.

The largest importance ratios are replaced by quantiles of a generalized Pareto distribution
fitted to them, whose shape k-hat measures how heavy their tail is. Sources: Pareto Smoothed
Importance Sampling, Vehtari, Simpson, Gelman, Yao, Gabry, 2024; A New and Efficient Estimation
Method for the Generalized Pareto Distribution, Zhang, Stephens, 2009.

Equal to ArviZ's `psislw`, against which it is tested, and which takes a second to import, longer
than a small fit.
"""

from __future__ import annotations

import math

import numpy as np

_PRIOR_SHAPE = (0.5, 10.0)  # weak prior on k-hat: its mean, and its weight in draws
_MIN_TAIL = 5
_EQUAL = 1e-3  # relative range of a tail below which its ratios differ by rounding only


def tail_size(num_draws: int) -> int:
    """Number of the largest ratios that form the tail, `min(S / 5, 3 sqrt(S))`."""
    return int(min(num_draws / 5, 3 * math.sqrt(num_draws)))


def smooth(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log ratios, and k-hat.

    Args:
        log_ratios: finite, `(num_draws,)`.

    Returns:
        Smoothed log ratios, not normalized, in the order given; k-hat, `inf` where there are too
        few draws to fit a tail, 0 where the largest ratios are all equal.
    """
    shifted = log_ratios - log_ratios.max()
    size = tail_size(shifted.size)
    if size < _MIN_TAIL:
        return shifted, math.inf
    order = np.argsort(shifted)
    tail, cutoff = order[-size:], math.exp(shifted[order[-size - 1]])
    width = shifted[tail[-1]] - shifted[tail[0]]
    if width == 0:
        return shifted, 0.0
    with np.errstate(all="ignore"):  # a tail that underflows cannot be fitted
        shape, scale = (float(part[0]) for part in _fit(np.exp(shifted[tail])[None] - cutoff))
        if math.isfinite(shape) and scale > 0:
            levels = (np.arange(size) + 0.5) / size
            quantiles = cutoff + _quantile(levels, shape, scale)
            shifted[tail] = np.minimum(np.log(quantiles), 0.0)
        elif not math.isfinite(shape) and width < _EQUAL:
            shape = 0.0
    return shifted, shape


def tail_shape(values: np.ndarray) -> float:
    """Pareto shape of the upper tail of values `(num,)`, `-inf` where there is no tail to fit."""
    return float(tail_shapes(values[:, None])[0])


def tail_shapes(values: np.ndarray) -> np.ndarray:
    """The same for each column of values `(num, columns)`."""
    num, columns = values.shape
    size = tail_size(num)
    shapes = np.full(columns, -math.inf)
    if size < _MIN_TAIL:
        return shapes
    upper = np.partition(np.ascontiguousarray(values.T), num - size - 1, axis=1)
    tail = np.sort(upper[:, -size - 1 :], axis=1)
    excess = tail[:, 1:] - tail[:, :1]
    fitted = excess[:, -1] > excess[:, 0]
    if not fitted.any():
        return shapes
    excess = excess[fitted]
    with np.errstate(all="ignore"):
        shapes[fitted], _ = _fit(np.maximum(excess, 1e-12 * excess[:, -1:]))
    return shapes


def _quantile(levels: np.ndarray, shape: float, scale: float) -> np.ndarray:
    if shape == 0:
        return -scale * np.log1p(-levels)
    return scale * np.expm1(-shape * np.log1p(-levels)) / shape


def _fit(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shapes and scales of generalized Pareto distributions for rows of sorted positive values.

    Zhang and Stephens' estimate: the posterior mean of `b = -shape / scale` on a grid, under a
    prior scaled by the data.
    """
    n = excess.shape[1]
    grid = 30 + int(math.sqrt(n))
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * excess[:, int(n / 4 + 0.5) - 1, None]) + 1 / excess[:, -1:]
    shapes = np.log1p(-b[..., None] * excess[:, None]).mean(axis=2)
    profile = n * (np.log(-b / shapes) - shapes - 1)
    weights = np.exp(profile - profile.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.where(weights >= 10 * np.finfo(float).eps, weights, 0.0)
    mean = (b * weights).sum(axis=1) / weights.sum(axis=1)
    shape = np.log1p(-mean[:, None] * excess).mean(axis=1)
    prior, weight = _PRIOR_SHAPE
    return (n * shape + weight * prior) / (n + weight), -shape / mean
