"""Difficult posteriors for variational inference, each with exact draws.

A fit may be inaccurate here; its status must not claim otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bench.posteriors import eight_schools, exact, misleading, regression
from bench.posteriors.case import Case

_DRAWS = 100_000


def funnel() -> Case:
    """Neal's funnel, d = 10; `x` has moments too heavy to estimate, hence quartiles."""

    def model():
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([9]).to_event(1))

    random = exact.rng()
    v = random.normal(0.0, 3.0, _DRAWS)
    x = np.exp(v / 2)[:, None] * random.normal(size=(_DRAWS, 9))
    return Case(model, (), {"v": v, "x": x}, robust=True)


def banana() -> Case:
    """A Rosenbrock density: a curved ridge."""
    wide, narrow = np.sqrt(10.0), np.sqrt(0.1)

    def model():
        x = numpyro.sample("x", dist.Normal(1.0, wide))
        numpyro.sample("y", dist.Normal(x**2, narrow))

    random = exact.rng()
    x = random.normal(1.0, wide, _DRAWS)
    return Case(model, (), {"x": x, "y": random.normal(x**2, narrow)})


def bimodal() -> Case:
    """Two normals in two dimensions, ten sds apart, with weights 0.7 and 0.3."""
    mean, weights = np.array([3.0, 4.0], np.float32), np.log(np.array([0.7, 0.3], np.float32))

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), event_shape=(2,)))
        modes = [dist.Normal(sign * mean, 1.0).log_prob(x).sum() for sign in (-1, 1)]
        numpyro.factor("target", jnp.logaddexp(weights[0] + modes[0], weights[1] + modes[1]))

    random = exact.rng()
    sign = np.where(random.random(_DRAWS) < 0.7, -1.0, 1.0)
    x = sign[:, None] * mean + random.normal(size=(_DRAWS, 2))
    return Case(model, (), {"x": x})


def cauchy() -> Case:
    """Five independent Cauchy variables: no moments, hence quartiles."""

    def model():
        numpyro.sample("x", dist.Cauchy(0.0, 1.0).expand([5]).to_event(1))

    x = exact.rng().standard_cauchy((_DRAWS, 5))
    return Case(model, (), {"x": x}, robust=True)


def heavy_tail() -> Case:
    """A multivariate Student t in five dimensions with three degrees of freedom."""
    factor = np.linalg.cholesky(0.5 * np.eye(5) + 0.5)

    def model():
        numpyro.sample("x", dist.MultivariateStudentT(3.0, jnp.zeros(5), jnp.asarray(factor)))

    random = exact.rng()
    normal = random.normal(size=(_DRAWS, 5)) @ factor.T
    x = normal / np.sqrt(random.chisquare(3, _DRAWS) / 3)[:, None]
    return Case(model, (), {"x": x}, robust=True)


def label_switching() -> Case:
    """The unordered means of a mixture of equal halves: two copies of one mode."""
    random = np.random.default_rng(1)
    y = np.concatenate([random.normal(-2, 1, 50), random.normal(2, 1, 50)]).astype(np.float32)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        halves = dist.Categorical(probs=jnp.array([0.5, 0.5]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MixtureSameFamily(halves, dist.Normal(mu, 1.0)), obs=y)

    def log_density(a, b):
        found = -(a**2 + b**2) / 200
        for one in y:
            found = found + np.logaddexp(-0.5 * (one - a) ** 2, -0.5 * (one - b) ** 2)
        return found

    grid = np.linspace(-4.0, 4.0, 801)
    return Case(model, (y,), {"mu": exact.on_grid(log_density, grid, grid)})


def collinear() -> Case:
    """Two predictors with a correlation of 0.9999."""
    random = np.random.default_rng(2)
    first = random.normal(size=200)
    second = 0.9999 * first + np.sqrt(1 - 0.9999**2) * random.normal(size=200)
    x = np.stack([np.ones(200), first, second], axis=1).astype(np.float32)
    y = (x @ np.array([1.0, 2.0, -1.0]) + random.normal(size=200)).astype(np.float32)
    return Case(regression.flat, (x, y), exact.flat_regression(x, y))


def dollars() -> Case:
    """House prices in dollars on raw square feet and year: badly scaled."""
    random = np.random.default_rng(3)
    feet, year = random.uniform(600, 4000, 300), random.integers(1920, 2020, 300)
    x = np.stack([np.ones(300), feet, year], axis=1).astype(np.float32)
    mean = -2_900_000 + 180 * feet + 1_500 * year
    y = (mean + random.normal(0, 40_000, 300)).astype(np.float32)
    return Case(regression.flat, (x, y), exact.flat_regression(x, y))


def moving_support() -> Case:
    """A uniform distribution with a latent upper bound."""

    def model(y):
        upper = numpyro.sample("upper", dist.LogNormal(0.0, 1.0))
        x = numpyro.sample("x", dist.Uniform(0.0, upper))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)

    y, random = np.float32(1.5), exact.rng()
    upper = random.lognormal(0.0, 1.0, 2_000_000)
    x = random.uniform(0.0, upper)
    weight = np.exp(-0.5 * ((y - x) / 0.5) ** 2)  # rejection from the prior
    kept = random.random(len(x)) < weight
    return Case(model, (y,), {"upper": upper[kept], "x": x[kept]})


def centered_schools() -> Case:
    """Eight schools, centered; reference draws with `theta` marginalized."""
    sigma, y = eight_schools.SIGMA, eight_schools.Y
    return Case(eight_schools.centered, (sigma, y), eight_schools.exact_draws(_DRAWS))


CASES: dict[str, Callable[[], Case]] = {
    one.__name__: one
    for one in (
        *(funnel, centered_schools, banana, bimodal, cauchy, label_switching),
        *(collinear, dollars, moving_support, heavy_tail),
    )
} | misleading.CASES
