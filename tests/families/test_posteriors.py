"""One step along the gradient of an expected log joint density is the posterior, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.families.members import density, mean_parameters
from vijax.families.gamma import Gamma
from vijax.families.log_normal import LogNormal
from vijax.families.normal import Normal
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart

RNG = np.random.default_rng(5)
Y = RNG.normal(3.0, 2.0, 7)
X = RNG.normal(size=(7, 2))
COUNTS = np.array([3, 0, 2, 5])
VECTORS = RNG.normal(size=(9, 2)) @ np.array([[1.0, 0.7], [0.0, 0.4]]) + 5.0
P0, S0 = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([[1.5, -0.4], [-0.4, 1.0]])


def normal(prior):
    """A normal mean, the noise known."""
    expected = lambda e: -0.5 * jnp.sum(0.3 * ((Y - e["mean"]) ** 2 + e["variance"]))  # noqa: E731
    precision = prior.precision + 0.3 * len(Y)
    mean = (prior.precision * prior.mean + 0.3 * Y.sum()) / precision
    return expected, Normal(mean, precision), lambda m: -0.15 * np.sum((Y - m) ** 2)


def log_normal(prior):
    """The median of log-normal data with a log-normal prior."""
    log_y = np.log(1 + Y**2)
    expected = lambda e: -0.5 * jnp.sum((log_y - e["mean"]) ** 2 + e["variance"])  # noqa: E731
    precision = prior.precision + len(Y)
    mean = (prior.precision * prior.mean + log_y.sum()) / precision
    exact = lambda x: -0.5 * np.sum((log_y - np.log(x)) ** 2)  # noqa: E731
    return expected, LogNormal(mean, precision), exact


def poisson(prior):
    """The rate of Poisson counts."""
    expected = lambda e: jnp.sum(COUNTS * e["log"] - e["value"])  # noqa: E731
    posterior = Gamma(prior.concentration + COUNTS.sum(), prior.rate + len(COUNTS))
    return expected, posterior, lambda x: np.sum(COUNTS * np.log(x) - x)


def scale(prior):
    """The standard deviation of noise, its precision with a gamma distribution."""
    expected = lambda e: jnp.sum(0.5 * e["log"] - 0.5 * e["value"] * Y**2)  # noqa: E731
    rate = prior.rate + 0.5 * np.sum(Y**2)
    posterior = Gamma(prior.concentration + 0.5 * len(Y), rate, -2)
    return expected, posterior, lambda s: np.sum(-np.log(s) - 0.5 * Y**2 / s**2)


def regression(prior):
    """Coefficients and the variance of the noise (Bayesian Data Analysis, 14.2)."""

    def expected(e):
        square = e["value"] * (Y - X @ e["mean"]) ** 2
        spread = jnp.einsum("ni,ij,nj->n", X, e["covariance"], X)
        return 0.5 * jnp.sum(e["log"] - square - spread)

    precision = prior.precision + X.T @ X
    mean = np.linalg.solve(precision, prior.precision @ prior.mean + X.T @ Y)
    squares = Y @ Y + prior.mean @ prior.precision @ prior.mean - mean @ precision @ mean
    shape = prior.concentration + 0.5 * len(Y)
    posterior = NormalGamma(mean, precision, shape, prior.rate + 0.5 * squares, -1)

    def exact(value):
        w, variance = value
        return -0.5 * np.sum(np.log(variance) + (Y - X @ w) ** 2 / variance)

    return expected, posterior, exact


def gaussian(prior):
    """The mean and the precision matrix of vectors (Bayesian Data Analysis, 3.6)."""

    def expected(e):
        centered = VECTORS - e["mean"]
        squares = jnp.einsum("ni,ij,nj->n", centered, e["value"], centered)
        return 0.5 * jnp.sum(e["logdet"] - squares - 2 * e["variance"])

    n, mean = len(VECTORS), VECTORS.mean(0)
    kappa, centered, distance = prior.kappa + n, VECTORS - mean, mean - prior.mean
    scatter = centered.T @ centered + prior.kappa * n / kappa * np.outer(distance, distance)
    center = (prior.kappa * prior.mean + n * mean) / kappa
    posterior = NormalWishart(center, kappa, prior.concentration + n, prior.inverse_scale + scatter)

    def exact(value):
        m, precision = value
        squares = np.einsum("ni,ij,nj->n", VECTORS - m, precision, VECTORS - m)
        return 0.5 * np.sum(np.linalg.slogdet(precision)[1] - squares)

    return expected, posterior, exact


PAIR = np.array([0.4, 2.0])

# A prior, a start of the step, and a value at which to check the densities.
MODELS = {
    normal: (Normal(1.0, 0.5), Normal(-9.0, 3.0), 1.3),
    log_normal: (LogNormal(1.0, 0.5), LogNormal(-9.0, 3.0), 1.3),
    poisson: (Gamma(0.01, 0.02), Gamma(9.0, 1.0), 1.3),
    scale: (Gamma(2.0, 0.5, -2), Gamma(9.0, 1.0, -2), 1.3),
    regression: (
        NormalGamma(np.array([1.0, -1.0]), P0, 2.0, 0.7, -1),
        NormalGamma(np.array([5.0, 3.0]), P0 @ P0, 9.0, 2.0, -1),
        (PAIR, 1.3),
    ),
    gaussian: (
        NormalWishart(np.array([1.0, -1.0]), 0.2, 3.0, S0),
        NormalWishart(np.array([5.0, 3.0]), 7.0, 8.0, S0 @ S0),
        (PAIR, P0),
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_one_step_is_the_posterior_and_its_elbo_the_log_evidence(model):
    prior, start, value = jax.tree.map(np.asarray, MODELS[model])
    expected, posterior, log_likelihood = model(prior)

    @jax.jit
    def fit(prior, start):
        def log_joint(e):
            t = mean_parameters(prior, e)
            log_prior = sum(jnp.sum(x * t[name]) for name, x in prior.natural.items())
            return log_prior - prior.log_normalizer + expected(e)

        found = start.step(jax.grad(log_joint)(start.expectations))
        return found, log_joint(found.expectations) + found.entropy

    with jax.enable_x64(True):
        found, elbo = fit(prior, start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-10), found, posterior)
    # By Bayes' theorem with densities of SciPy.
    before, after, batch = jax.tree.map(lambda x: np.asarray(x)[None], (prior, found, value))
    evidence = log_likelihood(value) + density(before, batch) - density(after, batch)
    np.testing.assert_allclose(elbo, evidence[0], 1e-10)
