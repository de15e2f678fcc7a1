"""Time series: autoregression, exponential smoothing, stochastic volatility, forecasting."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from bench.examples.case import Example


def ar2():
    rng = np.random.default_rng(0)
    y = np.zeros(120)
    for t in range(2, 120):
        y[t] = 0.5 + 0.6 * y[t - 1] - 0.2 * y[t - 2] + 0.3 * rng.normal()

    def model(y):
        a = numpyro.sample("a", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        const = numpyro.sample("const", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

        def step(carry, now):
            before, last = carry
            numpyro.sample("y", dist.Normal(const + a[0] * last + a[1] * before, sigma), obs=now)
            return (last, now), None

        scan(step, (y[0], y[1]), y[2:])

    return Example(model, (y.astype(np.float32),))


def holt_winters():
    rng = np.random.default_rng(1)
    t = np.arange(60)
    y = 5 + 0.05 * t + 0.8 * np.sin(2 * np.pi * t / 6) + rng.normal(0, 0.2, 60)

    def model(y):
        level_weight = numpyro.sample("level_weight", dist.Uniform(0, 1))
        trend_weight = numpyro.sample("trend_weight", dist.Uniform(0, 1))
        season_weight = numpyro.sample("season_weight", dist.Uniform(0, 1))
        level = numpyro.sample("level", dist.Normal(5.0, 1.0))
        trend = numpyro.sample("trend", dist.Normal(0.0, 0.2))
        with numpyro.plate("months", 6):
            season = numpyro.sample("season", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

        def step(carry, now):
            level, trend, season = carry
            numpyro.sample("y", dist.Normal(level + trend + season[0], sigma), obs=now)
            new = level_weight * (now - season[0]) + (1 - level_weight) * (level + trend)
            slope = trend_weight * (new - level) + (1 - trend_weight) * trend
            first = season_weight * (now - level - trend) + (1 - season_weight) * season[0]
            return (new, slope, jnp.append(season[1:], first)), None

        scan(step, (level, trend, season), y)

    return Example(model, (y.astype(np.float32),))


def stochastic_volatility():
    rng = np.random.default_rng(2)
    log_sd = np.cumsum(rng.normal(0, 0.1, 100)) - 1
    returns = np.exp(log_sd) * rng.standard_t(8, 100)

    def model(returns):
        step = numpyro.sample("step", dist.Exponential(20.0))
        path = numpyro.sample("path", dist.GaussianRandomWalk(step, len(returns)))
        nu = numpyro.sample("nu", dist.Exponential(0.1))
        numpyro.sample("returns", dist.StudentT(nu, 0.0, jnp.exp(path - 1.0)), obs=returns)

    return Example(model, (returns,))


def local_trend():
    """The tutorial on forecasting: a global trend with a power, seasons, and heavy tails."""
    rng = np.random.default_rng(3)
    t = np.arange(48)
    y = 10 + 0.2 * t + np.sin(2 * np.pi * t / 12) + rng.normal(0, 0.3, 48)

    def model(y):
        sigma = numpyro.sample("sigma", dist.HalfCauchy(0.5))
        nu = numpyro.sample("nu", dist.Uniform(2, 20))
        power = numpyro.sample("power", dist.Beta(1.0, 1.0))
        coefficient = numpyro.sample("coefficient", dist.HalfNormal(0.2))
        weight = numpyro.sample("weight", dist.Beta(2.0, 4.0))
        with numpyro.plate("months", 12):
            season = numpyro.sample("season", dist.Normal(0.0, 1.0))

        def step(level, given):
            now, month = given
            expected = level + coefficient * jnp.maximum(level, 0.1) ** power
            numpyro.sample("y", dist.StudentT(nu, expected + season[month], sigma), obs=now)
            return weight * (now - season[month]) + (1 - weight) * level, None

        scan(step, y[0], (y[1:], jnp.arange(1, len(y)) % 12))

    return Example(model, (y.astype(np.float32),))


EXAMPLES = {
    "ar2": ar2,
    "holt_winters": holt_winters,
    "stochastic_volatility": stochastic_volatility,
    "time_series_forecasting": local_trend,
}
