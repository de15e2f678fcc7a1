"""Forecasts beyond the end of a series, compared with those of an exact Kalman filter."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax import ModelError

RNG = np.random.default_rng(3)
STEPS, AHEAD, NUM_DRAWS = 24, 8, 20_000
LEVEL, SEASON, NOISE = 0.4, 0.2, 0.7  # standard deviations, known: the forecast is Gaussian
Y = np.cumsum(LEVEL * RNG.normal(size=STEPS)) + 2 * np.cos(np.pi * np.arange(STEPS) / 2)
Y = (Y + NOISE * RNG.normal(size=STEPS)).astype(np.float32)


def kalman_forecast(transition, shock, first, y):
    """Means and sds of `y` ahead of a state `N(0, first)`, seen as the sum of its observed part."""
    mean, covariance = np.zeros(len(transition)), first
    observe = np.zeros(len(transition))
    observe[:2] = 1.0  # level and season
    means, sds = [], []
    for t in range(len(y) + AHEAD):
        if t > 0:
            mean = transition @ mean
            covariance = transition @ covariance @ transition.T + shock
        expected, variance = observe @ mean, observe @ covariance @ observe + NOISE**2
        if t < len(y):
            gain = covariance @ observe / variance
            mean = mean + gain * (y[t] - expected)
            covariance = covariance - np.outer(gain, observe @ covariance)
        else:
            means.append(expected)
            sds.append(np.sqrt(variance))
    return np.array(means), np.array(sds)


def local_level(y):
    one = np.diag([1.0, 0.0])
    return kalman_forecast(one, LEVEL**2 * one, LEVEL**2 * one, y)


def seasonal(y):
    """A level and a season of four steps, whose effects sum to noise over a year."""
    transition = np.zeros((4, 4))
    transition[0, 0], transition[1, 1:], transition[2, 1], transition[3, 2] = 1, -1, 1, 1
    shock = np.diag([LEVEL**2, SEASON**2, 0, 0])
    first = np.diag([LEVEL**2, 1, 1, 1])
    return kalman_forecast(transition, shock, first, y)


def in_a_scan(length, y=None):
    def step(level, y):
        level = numpyro.sample("level", dist.Normal(level, LEVEL))
        numpyro.sample("y", dist.Normal(level, NOISE), obs=y)
        return level, None

    scan(step, 0.0, y, length=length)


def in_a_plate(length, y=None):
    with numpyro.plate("time", length):
        shock = numpyro.sample("shock", dist.Normal(0.0, LEVEL))
        numpyro.sample("y", dist.Normal(jnp.cumsum(shock), NOISE), obs=y)


def as_a_random_walk(length, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(LEVEL, length))
    with numpyro.plate("time", length):
        numpyro.sample("y", dist.Normal(level, NOISE), obs=y)


def with_a_season(length, y=None):
    before = numpyro.sample("before", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    start = numpyro.sample("start", dist.Normal(0.0, LEVEL))

    def step(carry, y):
        level, season = carry
        numpyro.sample("y", dist.Normal(level + season[0], NOISE), obs=y)
        level = numpyro.sample("level", dist.Normal(level, LEVEL))
        effect = numpyro.sample("effect", dist.Normal(-season.sum(), SEASON))
        return (level, jnp.concatenate([effect[None], season[:2]])), None

    scan(step, (start, before), y, length=length)


@pytest.mark.parametrize(
    ("model", "exact", "options"),
    [
        (in_a_scan, local_level, {}),
        pytest.param(in_a_plate, local_level, {"new_groups": "time"}, marks=pytest.mark.slow),
        pytest.param(as_a_random_walk, local_level, {}, marks=pytest.mark.slow),
        pytest.param(with_a_season, seasonal, {}, marks=pytest.mark.slow),
    ],
)
def test_forecasts_are_those_of_the_kalman_filter(model, exact, options):
    posterior = vijax.fit(model, STEPS, Y, progress_bar=False)
    assert posterior.status == "certified"
    y = posterior.predict(STEPS + AHEAD, num_draws=NUM_DRAWS, **options)["y"].astype(float)
    means, sds = exact(Y)
    np.testing.assert_allclose(y[:, STEPS:].std(0), sds, rtol=0.03)
    assert np.abs((y[:, STEPS:].mean(0) - means) / sds).max() < 0.03
    if options:
        with pytest.raises(ModelError, match="new_groups='time'"):
            posterior.predict(STEPS + AHEAD)
