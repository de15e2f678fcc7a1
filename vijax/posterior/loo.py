"""PSIS leave-one-out cross-validation and stacking weights, by ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from vijax.diagnostics.psis import smooth

_DIMS = ("chain", "draw", "all_dim_0")  # as `from_dict` calls them


def leave_one_out(pointwise: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, float]]:
    """ArviZ's `ELPDData` and the stacking weight of every model.

    Sources: Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Vehtari, Gelman, Gabry, 2017; Using stacking to average Bayesian predictive distributions, Yao,
    Vehtari, Simpson, Gelman, 2018.

    Tails are smoothed by `vijax.diagnostics.psis`, which accepts tails that ArviZ rejects: given
    draws of discrete sites a log likelihood takes few values. Where there is no tail to fit the
    ratios are not smoothed, and k-hat is infinite unless the largest are all equal.

    Args:
        pointwise: by model, the log likelihood of every observation under independent posterior
            draws, `(num_draws, num_observations)`.
    """
    from arviz_base import from_dict  # slow to import
    from arviz_stats.loo import compare, loo
    from xarray import DataArray

    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on large k-hats, which are in the results
        for name, values in pointwise.items():
            groups = {"posterior": {"draw_number": np.arange(len(values))[None].astype(float)}}
            tree = from_dict(groups | {"log_likelihood": {"all": values[None].astype(float)}})
            log_weights, shapes = _smoothed(values)
            weights = DataArray(log_weights[None], dims=_DIMS)
            k_hats = DataArray(shapes, dims=_DIMS[2:])
            results[name] = loo(
                tree, pointwise=True, reff=1.0, log_weights=weights, pareto_k=k_hats
            )
        if len(results) == 1:
            return results, dict.fromkeys(results, 1.0)
        ranked = compare(results, method="stacking")
    return results, {name: float(ranked.loc[name, "weight"]) for name in results}


def _smoothed(pointwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalized leave-one-out log weights, of the shape of `pointwise`, and k-hats."""
    smoothed = [smooth(-column) for column in pointwise.T.astype(float)]
    log_weights = np.stack([ratios for ratios, _ in smoothed], axis=1)
    shapes = np.array([shape for _, shape in smoothed])
    return (
        log_weights - np.logaddexp.reduce(log_weights, axis=0),
        np.where(np.isnan(shapes), np.inf, shapes),
    )


def by_observation(log_likelihood: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log likelihoods by site, `(num_draws, ...)` each, concatenated to `(num_draws, num)`."""
    sites = sorted(log_likelihood)
    return np.concatenate(
        [log_likelihood[site].reshape(len(log_likelihood[site]), -1) for site in sites], axis=1
    )
