"""How well the posterior predicts given outcomes: proper scores and calibration, with errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vijax.posterior import condition, prediction
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.posterior.uncertainty import one_site
from vijax.runtime.errors import ModelError
from vijax.runtime.keys import fold_in, host_rng

_BINS = 15  # of predicted probabilities
_RESAMPLES = 200


class Score(NamedTuple):
    """A mean over rows and its standard error."""

    value: float
    se: float


class Outcomes(NamedTuple):
    """Outcomes and their prediction, rows flattened.

    Attributes:
        y: what was observed, `(rows,)`.
        log_density: of `y` under the posterior predictive distribution, `(rows,)`.
        at_mean: likewise with the weights of networks at their means, of one member of an ensemble;
            `None` without any.
        probs: of classes, `(rows, num_classes)`; `None` of numbers.
        draws: of numbers, `(num_draws, rows)`; `None` of classes.
    """

    y: np.ndarray
    log_density: np.ndarray
    at_mean: np.ndarray | None = None
    probs: np.ndarray | None = None
    draws: np.ndarray | None = None


def outcomes(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    site: str | None,
    what: str,
) -> Outcomes:
    """The outcomes of an observed site at some rows, and their prediction.

    Raises:
        ModelError: outcomes are missing, or are vectors.
    """
    if not args and not kwargs:
        require_data(result, what)
        args, kwargs = result.arguments.join(result.batch.data)
    rows = condition.on_rows(result, what, args, kwargs)
    observed = rows.target.observations(rows.batch, rows.variables.model, rows.mutable)
    name = one_site(observed, site)
    state = (args, kwargs, num_draws)
    log_density = prediction.log_predictive_density(result, fold_in(key, 0), *state)[name]
    y = np.asarray(observed[name])
    if log_density.shape != y.shape:
        raise ModelError(
            f"{what}: expected outcomes that are single numbers, got site {name!r} with values of "
            f"shape {y.shape} for {log_density.shape} rows. Use posterior.predict."
        )
    if not np.isfinite(y.astype(float)).all():
        raise ModelError(f"{what}: expected an outcome in every row, got NaN in site {name!r}.")
    networks, at_mean = result.target.space.networks.names, None
    if networks:
        of_mean = prediction.log_predictive_density(result, fold_in(key, 0), *state, networks)
        at_mean = of_mean[name].ravel()
    changes = prediction.Changes(moments=True)
    moments: Any = prediction.predict(result, fold_in(key, 1), *state, changes)[name]
    if "probs" in moments:
        probs = np.asarray(moments["probs"], np.float64).mean(axis=0)
        return Outcomes(y.ravel(), log_density.ravel(), at_mean, probs.reshape(y.size, -1))
    draws = moments["value"].reshape(num_draws, -1)
    return Outcomes(y.ravel(), log_density.ravel(), at_mean, draws=draws)


def score(found: Outcomes, key: Array) -> dict[str, Score]:
    """See `Posterior.score`."""
    rng = host_rng(fold_in(key, 2))
    scores = {"log score": mean(found.log_density)}
    if found.at_mean is not None:
        scores["gain over the point estimate"] = mean(found.log_density - found.at_mean)
    if found.probs is not None:
        return scores | _of_classes(found.y.astype(int), found.probs, rng)
    assert found.draws is not None
    return scores | _of_numbers(found.y.astype(float), np.asarray(found.draws, float), rng)


def _of_classes(y: np.ndarray, probs: np.ndarray, rng: np.random.Generator) -> dict[str, Score]:
    outcome = np.eye(probs.shape[1])[y]
    error = expected_calibration_error(y, probs)
    confidence, right = _confidence(y, probs)
    resampled = [
        _calibration_error(confidence[rows], right[rows])
        for rows in (rng.integers(len(y), size=len(y)) for _ in range(_RESAMPLES))
    ]
    return {
        "Brier score": mean(np.sum((probs - outcome) ** 2, axis=1)),
        "accuracy": mean(np.argmax(probs, axis=1) == y),
        "calibration error": Score(error, float(np.std(resampled))),
    }


def _of_numbers(y: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> dict[str, Score]:
    square = mean((draws.mean(axis=0) - y) ** 2)
    error = square.value**0.5
    pit = probability_integral_transform(y, draws, rng)
    coverage = {
        f"coverage of {level:.0%}": mean(np.abs(pit - 0.5) <= level / 2) for level in (0.5, 0.9)
    }
    return {
        "CRPS": mean(continuous_ranked_probability_score(y, draws)),
        "RMSE": Score(error, square.se / (2 * max(error, 1e-300))),
        **coverage,
    }


def mean(values: np.ndarray) -> Score:
    """The mean over rows, with its standard error."""
    values = np.asarray(values, np.float64)
    se = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return Score(float(values.mean()), float(se))


def continuous_ranked_probability_score(y: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`E|x - y| - E|x - x'| / 2` of each row, from independent draws `(num_draws, rows)`, unbiased.

    Source: Strictly Proper Scoring Rules, Prediction, and Estimation, Gneiting and Raftery, 2007.
    """
    number = len(draws)
    weights = 2 * np.arange(1, number + 1) - number - 1
    spread = np.tensordot(weights, np.sort(draws, axis=0), axes=1) / (number * (number - 1))
    return np.abs(draws - y).mean(axis=0) - spread


def probability_integral_transform(
    y: np.ndarray, draws: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The rank of `y` among draws, in the unit interval: uniform if predictions are calibrated.

    Ties, of counts, are broken at random.
    """
    below, equal = (draws < y).sum(axis=0), (draws == y).sum(axis=0)
    return (below + rng.uniform(size=len(y)) * (equal + 1)) / (len(draws) + 1)


def expected_calibration_error(y: np.ndarray, probs: np.ndarray) -> float:
    """Mean distance of the probability of the most probable class from how often it is right.

    Over 15 bins of equal numbers of rows, weighted by their sizes. Biased upwards for few rows, and
    no proper score. Source: On Calibration of Modern Neural Networks, Guo et al., 2017.
    """
    return _calibration_error(*_confidence(y, probs))


def _confidence(y: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the most probable class, and whether it is right."""
    return probs.max(axis=1), probs.argmax(axis=1) == y


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(_BINS, len(right)))
    gaps = (len(rows) * abs(confidence[rows].mean() - right[rows].mean()) for rows in bins)
    return float(sum(gaps) / len(right))
