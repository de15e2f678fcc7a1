"""Gaussian process regression, the function marginalized; `sigma` is the noise variance."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def regression(x, y):
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
    covariance = kernel + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(0.0, covariance_matrix=covariance), obs=y)


def arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    return np.asarray(data["x"], np.float32), np.asarray(data["y"], np.float32)


MODELS = {"gp_pois_regr-gp_regr": (regression, arguments)}
