"""Effects of coaching in eight schools (Rubin, 1981), non-centered and centered."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

from bench.posteriors import exact

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)


def non_centered(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        raw = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * raw)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def centered(sigma, y):
    """The same posterior in centered form: a funnel."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    return np.asarray(data["sigma"], np.float32), np.asarray(data["y"], np.float32)


def exact_draws(num_draws: int) -> dict[str, np.ndarray]:
    """`(mu, log tau)` on a grid with `theta` marginalized, then `theta` given both."""
    mu, log_tau = np.linspace(-25.0, 30.0, 1101), np.linspace(-12.0, 6.0, 1801)

    def log_density(mu, log_tau):
        tau = np.exp(log_tau)
        found = -(mu**2) / 50 - np.log1p((tau / 5) ** 2) + log_tau
        for sigma, y in zip(SIGMA, Y, strict=True):
            variance = sigma**2 + tau**2
            found = found - 0.5 * (np.log(variance) + (y - mu) ** 2 / variance)
        return found

    mu, log_tau = exact.on_grid(log_density, mu, log_tau, num_draws).T
    tau = np.exp(log_tau)
    precision = 1 / SIGMA**2 + 1 / tau[:, None] ** 2
    mean = (Y / SIGMA**2 + (mu / tau**2)[:, None]) / precision
    theta = mean + np.random.default_rng(1).normal(size=mean.shape) / np.sqrt(precision)
    return {"mu": mu, "tau": tau, "theta": theta}


MODELS = {"eight_schools-eight_schools_noncentered": (non_centered, arguments)}
