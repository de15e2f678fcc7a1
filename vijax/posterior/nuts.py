"""NumPyro's NUTS started from a fit."""

from __future__ import annotations

from typing import Any

from jax import Array

from vijax.model.nuts import DENSE_DIM, MCMC, run_nuts
from vijax.posterior.covariance import covariance_or_variances
from vijax.posterior.requirements import require_data, require_log_density
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.keys import fold_in


def nuts(result: FitResult, key: Array, **options: Any) -> MCMC:
    """See `Posterior.nuts`."""
    require_log_density(result, "nuts")
    require_data(result, "nuts")
    starts = unconstrained(result, fold_in(key, 0), int(options.get("num_chains", 1)))
    return run_nuts(
        result.target,
        result.batch._replace(index={}),
        fold_in(key, 1),
        starts,
        covariance_or_variances(result, fold_in(key, 2), DENSE_DIM),
        result.variables.model,
        result.mutable,
        **options,
    )
