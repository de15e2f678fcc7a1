"""Hares and lynxes by the Lotka-Volterra equations.

Classical Runge-Kutta with `_STEPS` steps a year in one `lax.scan`: it compiles to a single loop and
differentiates without an adjoint equation. `python -m bench.posteriordb --check` compares with
an adaptive solver in double precision.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

_STEPS = 20


def hares_and_lynxes(years, y_init, y):
    theta = numpyro.sample(
        "theta",
        dist.TruncatedNormal(
            jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0
        ).to_event(1),
    )
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
    z = solve(theta, z_init, years)
    numpyro.sample("y_init", dist.LogNormal(jnp.log(z_init), sigma).to_event(1), obs=y_init)
    numpyro.sample("y", dist.LogNormal(jnp.log(z), sigma).to_event(2), obs=y)


def solve(theta, z_init, years):
    """Populations `(years, 2)` at the ends of years 1, 2, ..., `years`."""

    def slope(z):
        hares, lynxes = z
        growth = jnp.stack([theta[0] - theta[1] * lynxes, -theta[2] + theta[3] * hares])
        return growth * z

    def step(z, _):
        h = 1.0 / _STEPS
        k1 = slope(z)
        k2 = slope(z + h / 2 * k1)
        k3 = slope(z + h / 2 * k2)
        k4 = slope(z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    _, path = jax.lax.scan(step, z_init, length=years * _STEPS)
    return path[_STEPS - 1 :: _STEPS]


def arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    years = len(data["ts"])
    if list(data["ts"]) != list(range(1, years + 1)):
        raise ValueError(f"ts: expected the years 1, 2, ..., got {data['ts']}.")
    return years, np.asarray(data["y_init"], np.float32), np.asarray(data["y"], np.float32)


MODELS = {"hudson_lynx_hare-lotka_volterra": (hares_and_lynxes, arguments)}
