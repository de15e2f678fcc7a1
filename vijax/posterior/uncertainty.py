"""Predictive uncertainty in two parts: of the outcomes, and of what the model knows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vijax.posterior import prediction
from vijax.posterior.result import FitResult
from vijax.runtime.errors import ModelError, mismatch


class Uncertainty(NamedTuple):
    """Predictive uncertainty of each row; `total = aleatoric + epistemic`.

    Attributes:
        total: of the posterior predictive distribution: entropy of classes, or variance.
        aleatoric: of an outcome if the latents were known, on average: no data reduce it.
        epistemic: the rest, due to the latents: for classes the mutual information of the outcome
            and the latents. With few draws it is too small, by about `(C - 1) / (2 S)` nats for
            `C` classes and `S` draws.
        unit: `"nats"` of classes, `"variance"` of numbers.
    """

    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    unit: str


def uncertainty(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    site: str | None = None,
) -> Uncertainty:
    """See `Posterior.uncertainty`."""
    changes = prediction.Changes(moments=True)
    found: dict[str, Any] = prediction.predict(result, key, args, kwargs, num_draws, changes)
    name = one_site(found, site)
    moments = found[name]
    if "probs" in moments:
        return of_classes(moments["probs"])
    if "mean" not in moments:
        raise ModelError(
            f"uncertainty: expected a distribution with a mean and a variance, site {name!r} has "
            "one without. Compare quantiles of posterior.predict instead."
        )
    return of_numbers(moments["mean"], moments["variance"])


def one_site(found: Any, site: str | None) -> str:
    """The observed site that a method is about.

    Raises:
        ModelError: there are several, or none of that name.
    """
    names = list(found)
    if site is None and len(names) == 1:
        return str(names[0])
    if site not in names:
        raise ModelError(mismatch("site", f"one of the observed sites {names}", repr(site)))
    return str(site)


def of_classes(probs: np.ndarray) -> Uncertainty:
    """The parts of draws of class probabilities, `(num_draws, *shape, num_classes)`."""
    probs = np.asarray(probs, np.float64)
    total, aleatoric = entropy(probs.mean(axis=0)), entropy(probs).mean(axis=0)
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0.0), "nats")


def of_numbers(mean: np.ndarray, variance: np.ndarray) -> Uncertainty:
    """The parts of draws of means and variances, by the law of total variance.

    Raises:
        ModelError: the variance is infinite.
    """
    aleatoric = np.asarray(variance, np.float64).mean(axis=0)
    if not np.isfinite(aleatoric).all():
        raise ModelError(
            "uncertainty: expected outcomes with a finite variance, got one that is not. Compare "
            "quantiles of posterior.predict instead."
        )
    epistemic = np.asarray(mean, np.float64).var(axis=0)
    return Uncertainty(aleatoric + epistemic, aleatoric, epistemic, "variance")


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy along the last axis, in nats."""
    return -np.sum(probs * np.log(np.maximum(probs, math.ulp(0.0))), axis=-1)
