"""Posterior covariance in unconstrained space: guide, importance sampling, linear response."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jax import Array

from vijax.contracts import GaussianGuide
from vijax.diagnostics import importance
from vijax.posterior.labels import element_labels
from vijax.posterior.requirements import require_data, require_log_density
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import proposals, unconstrained
from vijax.posterior.selection import select
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import host_rng
from vijax.solvers import Kernel
from vijax.solvers.gaussians.conversion import from_params
from vijax.solvers.mean_field.covariance import linear_response
from vijax.solvers.mean_field.fixed_draws import require_mean_field

METHODS = ("guide", "importance", "linear_response")
_DRAWS, _VARIANCE_DRAWS = 4000, 500


def covariance(
    result: FitResult, method: str, key: Array, num_draws: int, sites: str | Iterable[str] | None
) -> np.ndarray:
    """See `Posterior.covariance`."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}.")
    space, guide = result.target.space, result.guide
    where = rows(result, sites)
    if method == "linear_response":
        return by_linear_response(result, key, where)
    if method == "guide" and isinstance(guide, GaussianGuide) and not result.relabeling:
        return np.asarray(guide.covariance(result.params, space))[np.ix_(where, where)]
    if method == "guide":
        flat = importance.flatten(space, unconstrained(result, key, num_draws, corrected=False))
        return of_draws(flat[:, where])
    draws, found = proposals(result, key, num_draws, fresh=True)
    flat = importance.flatten(space, draws.z)
    return of_draws(flat[:, where], np.exp(found.log_weights))


def covariance_or_variances(result: FitResult, key: Array, dense_dim: int) -> np.ndarray:
    """Covariance in unconstrained space, or only variances in more than `dense_dim` dimensions."""
    if result.target.space.dim <= dense_dim:
        return covariance(result, "guide", key, _DRAWS, None)
    z = unconstrained(result, key, _VARIANCE_DRAWS, corrected=False)
    return importance.flatten(result.target.space, z).var(0)


def rows(result: FitResult, sites: str | Iterable[str] | None) -> np.ndarray:
    """Indices of the coordinates that names select, in the order of the space; all for `None`.

    Raises:
        VijaxError: a name selects nothing.
    """
    space = result.target.space
    if sites is None:
        return np.arange(space.dim)
    labels = {site.name: element_labels(result, site.name, site.z_shape) for site in space.sites}
    chosen = {*select(sites, labels)}
    return np.flatnonzero([label in chosen for group in labels.values() for label in group])


def of_draws(flat: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Covariance `(dim, dim)` of draws `(num_draws, dim)`, weighted by `(num_draws,)` if given."""
    if weights is None:
        return np.cov(flat, rowvar=False).reshape(flat.shape[1], -1)
    centered = flat - weights @ flat
    return (centered * weights[:, None]).T @ centered


def by_linear_response(result: FitResult, key: Array, where: np.ndarray) -> np.ndarray:
    """Covariance `(num, num)` of the coordinates at `where` `(num,)` of a mean-field fit.

    Raises:
        GuideError: the guide is not mean-field, or the fit used minibatches.
        VijaxError: the guide is not at a maximum of the ELBO.
    """
    require_log_density(result, "covariance('linear_response')")
    require_data(result, "covariance('linear_response')")
    require_mean_field(result.guide, "covariance('linear_response')")
    if result.batch.index:
        raise GuideError(
            "covariance('linear_response'): expected a full-batch fit, got one on minibatches. "
            "Refit without subsample_size."
        )
    kernel = Kernel(result.target, result.batch, result.variables.model, result.mutable)
    gaussian = from_params(result.params, result.target.space)
    return linear_response(kernel, host_rng(key), gaussian.mean, gaussian.sd, where)
