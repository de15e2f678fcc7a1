"""Calibration of predictions: a reliability diagram of classes, ranks of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy import optimize, stats

from vijax import Posterior
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, axes_or_new, styled
from vijax.posterior import scoring
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng
from vijax.runtime.keywords import merged

_LEVEL = 0.95  # share of calibrated predictions whose whole curve is in the band
_SIMULATIONS, _WORK = 1000, 10_000_000  # number of curves; of many rows fewer, for so much work
_POINTS = 100  # of a curve
_BINS, _HEIGHT = 30, 0.15  # of the histogram of probabilities


class Curve(NamedTuple):
    """A curve `value` at the points `at`, and the band of calibrated predictions."""

    at: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def calibration(
    posterior: Posterior,
    *args: Any,
    site: str | None = None,
    num_draws: int = 1000,
    rng_key: RngKey = 0,
    axes: Axes | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Axes:
    """Plots whether predictions are as uncertain as they should be, with a 95% band.

    Of classes, how often the most probable class is right against its probability; of two classes,
    how often the outcome is 1 against the probability of that. The curve is an isotonic regression,
    without bins to choose. Below the diagonal predictions are too certain (Stable reliability
    diagrams for probabilistic classifiers, Dimitriadis, Gneiting and Jordan, 2021).

    Of numbers, how the rank of the outcome among predictive draws is distributed, less a uniform
    distribution, as `arviz_plots.plot_ppc_pit` (Graphical Test for Discrete Uniformity, Säilynoja,
    Bürkner and Vehtari, 2022). Predictions that are too narrow have a curve that rises at both
    ends, too wide ones one that falls at both ends, and a bow to one side is a bias.

    Of 100 sets of calibrated predictions 95 are in the band all along. Use rows that the fit has
    not seen.

    Args:
        posterior: any fit.
        *args: the model's arguments at the rows, with outcomes; those of the fit by default.
        site: the observed site, if there are several.
        num_draws: of the posterior.
        rng_key: an int, a JAX key or a legacy key.
        axes: axes to draw on; a new figure by default.
        model_kwargs: keyword arguments of the model whose names are also options.
        **kwargs: the model's keyword arguments.

    Raises:
        ModelError: outcomes are missing or vectors, or there are several observed sites.
    """
    key, result = as_key(rng_key), posterior._result
    call = result.arguments.complete(args, merged(kwargs, model_kwargs))
    state = (result, key, *call, num_draws, site, "calibration")
    found = scoring.outcomes(*state)
    scores, rng = scoring.score(found, key), host_rng(fold_in(key, 3))
    with styled():
        axes = axes_or_new(axes)
        if found.probs is not None:
            _draw_classes(axes, found.y.astype(int), found.probs, rng)
            error = scores["calibration error"]
            axes.set_title(f"calibration error {error.value:.3f} ± {error.se:.3f}")
        else:
            assert found.draws is not None
            _draw(axes, ranks(found.y.astype(float), np.asarray(found.draws, float), rng))
            axes.axhline(0.0, ls="--", color=REFERENCE, lw=0.8)
            axes.set(xlim=(0, 1), xlabel="rank of the outcome among draws, as a share")
            axes.set_ylabel("share of rows up to that rank, less uniform")
            axes.margins(y=0.2)
            half, most = (scores[f"coverage of {level}"].value for level in ("50%", "90%"))
            axes.set_title(f"50% intervals have {half:.0%} of outcomes, 90% intervals {most:.0%}")
        axes.legend(loc="upper left")
    return axes


def _draw_classes(axes: Axes, y: np.ndarray, probs: np.ndarray, rng: np.random.Generator) -> None:
    """The reliability diagram of `probs`, `(rows, num_classes)`."""
    two = probs.shape[1] == 2
    predicted = probs[:, 1] if two else probs.max(axis=1)
    happened = y == 1 if two else probs.argmax(axis=1) == y
    _draw(axes, reliability(predicted, happened, rng))
    axes.plot([0, 1], [0, 1], "--", color=REFERENCE, lw=0.8)
    number, edges = np.histogram(predicted, _BINS, (0.0, 1.0))
    style: dict[str, Any] = {"align": "edge", "color": GUIDE, "alpha": 0.4}
    height = _HEIGHT * number / number.max()
    axes.bar(edges[:-1], height, np.diff(edges), label="rows", **style)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("probability of 1" if two else "probability of the most probable class")
    axes.set_ylabel("share of 1" if two else "share that is right")


def _draw(axes: Axes, curve: Curve) -> None:
    style: dict[str, Any] = {"color": REFERENCE, "alpha": 0.3, "lw": 0}
    axes.fill_between(curve.at, curve.low, curve.high, label="95% if calibrated", **style)
    axes.plot(curve.at, curve.value, color=POSTERIOR, lw=1.5, label="predictions")


def reliability(predicted: np.ndarray, happened: np.ndarray, rng: np.random.Generator) -> Curve:
    """How often an event happened by its predicted probability.

    Args:
        predicted: its probability, `(rows,)`.
        happened: whether it did.
        rng: of outcomes with these probabilities, for the band (a parametric bootstrap).
    """
    values, inverse, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    at = np.linspace(values[0], values[-1], _POINTS)

    def curve(outcome: np.ndarray) -> np.ndarray:
        share = np.bincount(inverse, outcome, len(values)) / counts
        return np.interp(at, values, optimize.isotonic_regression(share, weights=counts).x)

    number = _num_simulations(len(predicted))
    simulated = [curve(rng.random(len(predicted)) < predicted) for _ in range(number)]
    return Curve(at, curve(happened), *simultaneous_band(np.array(simulated)))


def ranks(y: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> Curve:
    """The distribution of ranks of `y`, `(rows,)`, among draws, less the uniform one.

    Args:
        y: outcomes.
        draws: `(num_draws, rows)`.
        rng: of ties, and of the band.
    """
    from arviz_stats.ecdf_utils import ecdf_pit  # slow to import

    pit = scoring.probability_integral_transform(y, draws, rng)
    at, *values = ecdf_pit(pit, _LEVEL, _num_simulations(len(y)), rng=rng)
    return Curve(at, *(value - at for value in values))


def _num_simulations(rows: int) -> int:
    return max(100, min(_SIMULATIONS, _WORK // rows))


def simultaneous_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of a band that contains all of a curve for 95% of `curves`, `(number, points)`.

    It leaves out the same share of curves at every point and end.
    """
    number = len(curves)
    rank = stats.rankdata(curves, axis=0)
    depth = np.minimum(rank, number + 1 - rank).min(axis=1)
    outside = (np.quantile(depth, 1 - _LEVEL) - 1) / (number - 1)
    low, high = np.quantile(curves, [outside, 1 - outside], axis=0)
    return low, high
