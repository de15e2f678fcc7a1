"""Differential equations: predators and prey."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental.ode import odeint

from bench.examples.case import Example

_TIMES = np.arange(0.0, 20.0, 1.0, dtype=np.float32)


def _slope(z, _, theta):
    u, v = z
    alpha, beta, gamma, delta = theta
    return jnp.stack([(alpha - beta * v) * u, (-gamma + delta * u) * v])


def lotka_volterra():
    rng = np.random.default_rng(0)
    theta = jnp.array([0.55, 0.028, 0.84, 0.026])
    exact = odeint(_slope, jnp.array([33.0, 6.0]), _TIMES, theta)
    data = np.asarray(exact) * np.exp(0.2 * rng.normal(size=exact.shape))

    def model(data):
        start = numpyro.sample("start", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
        theta = numpyro.sample(
            "theta",
            dist.TruncatedNormal(
                low=0.0,
                loc=jnp.array([1.0, 0.05, 1.0, 0.05]),
                scale=jnp.array([0.2, 0.01, 0.2, 0.01]),
            ).to_event(1),
        )
        z = odeint(_slope, start, _TIMES, theta, rtol=1e-5, atol=1e-4, mxstep=500)
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("data", dist.LogNormal(jnp.log(jnp.maximum(z, 1e-6)), sigma), obs=data)

    return Example(model, (data.astype(np.float32),))


EXAMPLES = {"lotka_volterra": lotka_volterra}
