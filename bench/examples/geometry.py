"""Posteriors of difficult shape: funnels, shells, circles, scales without data."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer.reparam import LocScaleReparam

from bench.examples.case import Example


def funnel():
    def model():
        y = numpyro.sample("y", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(jnp.zeros(4), jnp.exp(y / 2)).to_event(1))

    reparam = numpyro.handlers.reparam(model, config={"x": LocScaleReparam(0)})
    return Example(model, nuts=reparam, compared=("y",))


def funnel_noncentered():
    example = funnel()
    return example._replace(model=example.nuts)


def eight_schools():
    y = np.float32([28, 8, -3, 7, -1, 1, 18, 12])
    sigma = np.float32([15, 10, 16, 11, 9, 11, 10, 18])

    def model(sigma, y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    reparam = numpyro.handlers.reparam(model, config={"theta": LocScaleReparam(0)})
    return Example(model, (sigma, y), nuts=reparam, compared=("mu", "tau", "theta"))


def gaussian_shells():
    """Two thin spherical shells; NUTS does not pass from one to the other."""

    def log_shell(x, center):
        distance = jnp.sqrt(jnp.sum((x - center) ** 2))
        return dist.Normal(2.0, 0.1).log_prob(distance)

    def model():
        x = numpyro.sample("x", dist.Uniform(-6, 6).expand([2]).to_event(1))
        shells = [log_shell(x, jnp.array([center, 0.0])) for center in (-3.5, 3.5)]
        numpyro.factor("shells", jnp.logaddexp(*shells))

    return Example(model)


def circular():
    """Directions of two angles with a common center."""
    rng = np.random.default_rng(0)
    angles = rng.vonmises(1.0, 4.0, 50)

    def model(angles):
        center = numpyro.sample("center", dist.VonMises(0.0, 1.0))
        concentration = numpyro.sample("concentration", dist.Gamma(2.0, 0.5))
        with numpyro.plate("rows", len(angles)):
            numpyro.sample("angles", dist.VonMises(center, concentration), obs=angles)

    return Example(model, (angles,))


EXAMPLES = {
    "funnel": funnel,
    "funnel, non-centered": funnel_noncentered,
    "eight_schools": eight_schools,
    "gaussian_shells": gaussian_shells,
    "directions": circular,
}
