"""A mixture of two normals with ordered means."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def ordered(y):
    mu = numpyro.sample(
        "mu", dist.ImproperUniform(constraints.ordered_vector, (), event_shape=(2,))
    )
    numpyro.factor("mu prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    return (np.asarray(data["y"], np.float32),)


MODELS = {"low_dim_gauss_mix-low_dim_gauss_mix": (ordered, arguments)}
