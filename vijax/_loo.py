"""Leave-one-out cross-validation and stacking, by ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np


def leave_one_out(pointwise: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, float]]:
    """ArviZ's `ELPDData` and the stacking weight of every model.

    Sources: Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Vehtari, Gelman, Gabry, 2017; Using stacking to average Bayesian predictive distributions, Yao,
    Vehtari, Simpson, Gelman, 2018.

    Args:
        pointwise: by model, the log likelihood of every observation under independent posterior
            draws, `(num_draws, num_observations)`.
    """
    from arviz_base import from_dict  # slow to import
    from arviz_stats.loo import compare, loo

    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bad k-hats, which are in what is returned
        for name, values in pointwise.items():
            groups = {"posterior": {"draw_number": np.arange(len(values))[None].astype(float)}}
            tree = from_dict(groups | {"log_likelihood": {"all": values[None].astype(float)}})
            scores[name] = loo(tree, pointwise=True, reff=1.0)
        if len(scores) == 1:
            return scores, dict.fromkeys(scores, 1.0)
        ranked = compare(scores, method="stacking")
    return scores, {name: float(ranked.loc[name, "weight"]) for name in scores}


def by_observation(log_likelihood: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log likelihoods by site, `(num_draws, ...)` each, as one table `(num_draws, num)`."""
    sites = sorted(log_likelihood)
    return np.concatenate(
        [log_likelihood[site].reshape(len(log_likelihood[site]), -1) for site in sites], axis=1
    )
