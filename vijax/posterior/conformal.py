"""Split conformal prediction: intervals and sets that cover as often as they say.

Whatever the model, if the rows that calibrate and a new row are exchangeable, the prediction
contains the new outcome with at least the stated probability. The price is that this holds on
average over rows, not for each of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from vijax.posterior import prediction
from vijax.posterior.posterior import Posterior
from vijax.posterior.scoring import Outcomes, outcomes
from vijax.posterior.uncertainty import one_site
from vijax.runtime.errors import mismatch
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Conformal:
    """A posterior whose predictions were calibrated on held-out rows; see `vijax.conformal`.

    Attributes:
        posterior: the posterior.
        site: the observed site.
        level: smallest probability with which a prediction contains the outcome.
        threshold: of the scores of outcomes: how far beyond the ends of the model's interval, in
            the outcome's unit, or the probability of the classes up to the true one.
        classes: whether outcomes are classes.
        num_draws: of the posterior, for a prediction.
    """

    posterior: Posterior
    site: str
    level: float
    threshold: float
    classes: bool
    num_draws: int

    def predict(self, *args: Any, rng_key: RngKey = 0, **kwargs: Any) -> np.ndarray:
        """Predictions at new rows.

        Args:
            *args: the model's arguments at the rows.
            rng_key: an int, a JAX key or a legacy key.
            **kwargs: the model's keyword arguments.

        Returns:
            Of numbers lower and upper ends, `(*shape, 2)`; of classes whether each is in the set,
            `(*shape, num_classes)`; the most probable one always is.
        """
        key, result = as_key(rng_key), self.posterior._result
        call = result.arguments.complete(args, kwargs)
        state = (result, fold_in(key, 1), *call, self.num_draws)
        if self.classes:
            moments: Any = prediction.predict(*state, prediction.Changes(moments=True))[self.site]
            probs = np.asarray(moments["probs"], np.float64).mean(axis=0)
            before, own = _before(probs), probs
            u = host_rng(fold_in(key, 2)).uniform(size=(*probs.shape[:-1], 1))
            return (before + u * own <= self.threshold) | (before == 0)
        draws = prediction.predict(*state)[self.site]
        low, high = _ends(np.asarray(draws, np.float64), self.level)
        return np.stack([low - self.threshold, high + self.threshold], axis=-1)


def conformal(
    posterior: Posterior,
    *args: Any,
    level: float = 0.9,
    num_draws: int = 1000,
    site: str | None = None,
    rng_key: RngKey = 0,
    **kwargs: Any,
) -> Conformal:
    """Calibrates predictions on rows that the fit has not seen.

    Numbers by conformalized quantile regression: the ends of the model's central interval are moved
    by the same amount for all rows (Romano, Patterson and Candes, 2019). Classes by adaptive
    prediction sets: from the most probable class on, until a threshold (Romano, Sesia and Candes,
    2020).

    >>> import jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist, vijax
    >>> def model(x, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0, 1))
    ...     with numpyro.plate("rows", len(x)):
    ...         numpyro.sample("y", dist.Normal(b * x, 0.1), obs=y)  # true noise is 1
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=3000)
    >>> y = x + rng.normal(size=3000)
    >>> posterior = vijax.fit(model, x[:1000], y[:1000], progress_bar=False)
    >>> calibrated = vijax.conformal(posterior, x[1000:2000], y=y[1000:2000])
    >>> low, high = calibrated.predict(x[2000:]).T
    >>> bool(0.87 < np.mean((low <= y[2000:]) & (y[2000:] <= high)) < 0.93)
    True

    Args:
        posterior: the fit.
        *args: the model's arguments at the held-out rows, with their outcomes.
        level: probability with which predictions contain the outcome, at least.
        num_draws: of the posterior, for a prediction.
        site: the observed site, if there are several.
        rng_key: an int, a JAX key or a legacy key.
        **kwargs: the model's keyword arguments.

    Raises:
        ValueError: `level` is not between 0 and 1, or there are too few rows for it.
        ModelError: outcomes are missing, or the name of the site is unknown.
    """
    if not 0 < level < 1:
        raise ValueError(mismatch("level", "a number between 0 and 1", repr(level)))
    key, result = as_key(rng_key), posterior._result
    call = result.arguments.complete(args, kwargs)
    found = outcomes(result, key, *call, num_draws, site, "conformal")
    rank = math.ceil((len(found.y) + 1) * level - _ROUNDING)
    if rank > len(found.y):
        needed = math.ceil(level / (1 - level) - _ROUNDING)
        raise ValueError(
            f"conformal: expected at least {needed} rows for level={level:g}, got {len(found.y)}."
        )
    scores = _scores(found, level, host_rng(fold_in(key, 2)))
    threshold = float(np.sort(scores)[rank - 1])
    name = one_site(result.target.structure.observed, site)
    return Conformal(posterior, name, level, threshold, found.probs is not None, num_draws)


def _scores(found: Outcomes, level: float, rng: np.random.Generator) -> np.ndarray:
    """How unlikely each outcome is, in the sense of its kind of prediction."""
    if found.probs is not None:
        rows, y = np.arange(len(found.y)), found.y.astype(int)
        u = rng.uniform(size=len(rows))
        return np.asarray(_before(found.probs)[rows, y] + u * found.probs[rows, y])
    assert found.draws is not None
    low, high = _ends(np.asarray(found.draws, np.float64), level)
    return np.maximum(low - found.y, found.y - high)


def _before(probs: np.ndarray) -> np.ndarray:
    """The total probability of the more probable classes, along the last axis."""
    order = np.argsort(-probs, axis=-1, kind="stable")
    ordered = np.take_along_axis(probs, order, axis=-1)
    before, found = np.cumsum(ordered, axis=-1) - ordered, np.empty_like(probs)
    np.put_along_axis(found, order, np.maximum(before, 0.0), axis=-1)
    return found


def _ends(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central interval of draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
