"""Covariances of a posterior in unconstrained space, in the ways there are to get them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax import Array

from vijax._contracts import Batch, Guide, PyTree, Space, Target, Variables
from vijax._errors import GuideError, VijaxError, mismatch
from vijax._keys import host_rng
from vijax.solvers import Kernel, linear_response
from vijax.solvers.conversion import from_params
from vijax.solvers.fixed_draws import require_mean_field

METHODS = ("guide", "importance", "linear_response")


def rows(space: Space, sites: Sequence[str] | None) -> np.ndarray:
    """Positions of the coordinates of some sites, in the order of the space; of all for `None`.

    Raises:
        VijaxError: a site is unknown.
    """
    wanted = space.names if sites is None else (sites,) if isinstance(sites, str) else tuple(sites)
    for name in wanted:
        if name not in space.names:
            raise VijaxError(mismatch("sites", f"sites among {list(space.names)}", repr(name)))
    owners = np.repeat([site.name in wanted for site in space.sites], [s.size for s in space.sites])
    return np.flatnonzero(owners)


def of_draws(flat: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Covariance `(dim, dim)` of draws `(num_draws, dim)`, weighted by `(num_draws,)` if given."""
    if weights is None:
        return np.cov(flat, rowvar=False).reshape(flat.shape[1], -1)
    centred = flat - weights @ flat
    return (centred * weights[:, None]).T @ centred


def by_linear_response(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    key: Array,
    where: np.ndarray,
) -> np.ndarray:
    """Covariance `(num, num)` of the coordinates at `where` `(num,)` of a mean-field fit.

    Raises:
        GuideError: the guide is not mean-field, or the fit saw minibatches.
        VijaxError: the guide is not at a maximum of the ELBO.
    """
    require_mean_field(guide, "covariance('linear_response')")
    if batch.index:
        raise GuideError(
            "covariance('linear_response'): expected a full-batch fit, got one on minibatches. "
            "Refit without subsample_size."
        )
    kernel = Kernel(target, batch, variables.model, mutable)
    gaussian = from_params(variables.guide, target.space)
    return linear_response(kernel, host_rng(key), gaussian.mean, gaussian.sd, where)
