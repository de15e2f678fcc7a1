"""Rows with a latent each and three observations: conjugate, so that every answer is known."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx

PRECISION = 3 + 1 / 4  # of each theta of `groups` given its three observations


def data(rows):
    """What `groups` makes: observations `(rows, 3)`."""
    rng = np.random.default_rng(0)
    theta = rng.normal(0.0, 2.0, rows)
    return (theta[:, None] + rng.normal(size=(rows, 3))).astype(np.float32)


def groups(y):
    """Independent groups: the mean-field guide holds the posterior exactly."""
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def hierarchy(y):
    """The same about an unknown mean."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(mu, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


class Encoder(nnx.Module):
    """Linear, as the exact posterior of `groups` is."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)
