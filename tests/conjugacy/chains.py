"""Models with a Gaussian chain."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from tests.conjugacy.case import Case, Family

RNG = np.random.default_rng(22)
NORMAL, VECTOR, GAMMA = Family("Normal"), Family("MultivariateNormal"), Family("Gamma")


def level(y):
    """A first-order autoregression with noise, of unknown coefficient and precisions."""
    q = numpyro.sample("q", dist.Gamma(2.0, 1.0))
    r = numpyro.sample("r", dist.Gamma(2.0, 1.0))
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 1.0))

    def step(before, y):
        x = numpyro.sample("x", dist.Normal(c * before, 1 / jnp.sqrt(q)))
        numpyro.sample("y", dist.Normal(x, 1 / jnp.sqrt(r)), obs=y)
        return x, None

    scan(step, first, y)


def _trend(y):
    """A level and its slope, two sites in each step and before the first."""
    q = numpyro.sample("q", dist.Gamma(2.0, 1.0))
    start = [numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("level 0", "slope 0")]

    def step(carry, y):
        level, slope = carry
        level = numpyro.sample("level", dist.Normal(level + slope, 1 / jnp.sqrt(q)))
        slope = numpyro.sample("slope", dist.Normal(slope, 0.5))
        numpyro.sample("y", dist.Normal(level, 0.7), obs=y)
        return (level, slope), None

    scan(step, tuple(start), y)


def _vectors(y):
    """A linear dynamical system with a dynamics matrix and precision matrix that are unknown."""
    dynamics = numpyro.sample("A", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    precision = numpyro.sample("Q", dist.Wishart(4.0, jnp.eye(2)))
    loadings = jnp.array([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3]])

    def step(before, y):
        x = numpyro.sample(
            "x", dist.MultivariateNormal(dynamics @ before, precision_matrix=precision)
        )
        numpyro.sample("y", dist.Normal(loadings @ x, 0.5).to_event(1), obs=y)
        return x, None

    scan(step, jnp.ones(2), y)


def _moving_average(y):
    """Several series at once, with a prior of the sites of a step that is the same for all."""
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))

    def step(before, y):
        with numpyro.plate("series", 2):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(x + c * before, 0.5), obs=y)
        return x, None

    scan(step, jnp.zeros(2), y)


def _slices(y):
    """Without a loop: squares of an element and the one before it."""
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    x = numpyro.sample("x", dist.Normal(0.0, 3.0).expand([len(y)]).to_event(1))
    numpyro.sample("steps", dist.Normal(x[1:] - c * x[:-1], 0.5).to_event(1), obs=y[1:] * 0.0)
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


SERIES, TABLE = RNG.normal(size=4), RNG.normal(size=(3, 3))

CHAINS = {
    "level in a scan": Case(
        level, (SERIES,), {("x", "first"): VECTOR, "c": NORMAL, "q": GAMMA, "r": GAMMA}
    ),
    "level and slope": Case(_trend, (SERIES,), {("level", "slope"): VECTOR, "q": GAMMA}),
    "linear dynamical system": Case(
        _vectors, (TABLE,), {"A": VECTOR, "x": VECTOR, "Q": Family("Wishart")}
    ),
    "moving average": Case(_moving_average, (TABLE[:, :2],), {"x": VECTOR, "c": NORMAL}),
    "slices": Case(_slices, (SERIES,), {"x": VECTOR, "c": NORMAL}),
}
