"""Rows with a local latent variable and three observations: conjugate, with exact posteriors."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx

PRECISION = 3 + 1 / 4  # posterior precision of each theta of `groups`


def data(rows):
    """Observations `(rows, 3)` simulated from `groups`."""
    rng = np.random.default_rng(0)
    theta = rng.normal(0.0, 2.0, rows)
    return (theta[:, None] + rng.normal(size=(rows, 3))).astype(np.float32)


def groups(y):
    """Independent groups: the posterior is in the mean-field family."""
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def hierarchy(y):
    """Groups with an unknown common mean."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(mu, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


class Encoder(nnx.Module):
    """Linear, as is the exact posterior mean of `groups`."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)
