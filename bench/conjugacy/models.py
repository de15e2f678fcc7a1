"""Models and simulated data of the benchmark, float64.

Each data generator returns the model, its arguments, and the start: values by site. Latents that
are not in the start are updated first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats
from scipy.special import logsumexp


class Problem(NamedTuple):
    """A model, its arguments, values of sites to start from, and arrays for a peer."""

    model: Callable[..., None]
    args: tuple
    start: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


def _normal(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1000.0))
    tau = numpyro.sample("tau", dist.Gamma(1e-6, 1e-6))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def normal() -> Problem:
    """Unknown mean and precision: the data of BayesPy's quick start, whose ELBOs are printed."""
    y = np.random.RandomState(1).normal(5, 10, size=10)
    start = {"tau": np.asarray(1.0)}
    return Problem(_normal, (y,), start, {"y": y, **start})


def _mixture(y: Any, components: int) -> None:
    dim = y.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        mean = dist.MultivariateNormal(jnp.zeros(dim), precision_matrix=0.1 * jnp.eye(dim))
        mu = numpyro.sample("mu", mean)
        prior = dist.Wishart(dim + 1.0, rate_matrix=jnp.eye(dim))
        precision = numpyro.sample("precision", prior)
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        row = dist.MultivariateNormal(mu[z], precision_matrix=precision[z])
        numpyro.sample("y", row, obs=y)


def clusters(rows: int, dim: int, components: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of correlated normal clusters, and the clusters' centers."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(components, dim)) * spread
    shapes = rng.normal(size=(components, dim, dim)) / np.sqrt(dim) + 0.5 * np.eye(dim)
    label = rng.integers(0, components, size=rows)
    noise = rng.normal(size=(rows, dim))
    return centers[label] + np.einsum("nij,nj->ni", shapes[label], noise), centers


def mixture(rows: int = 1_000, dim: int = 5, components: int = 3) -> Problem:
    """A Gaussian mixture with full precision matrices, from means off the true centers."""
    y, centers = clusters(rows, dim, components, 1.0)
    start = {
        "weights": np.full(components, 1 / components),
        "mu": centers + np.random.default_rng(1).normal(size=centers.shape),
        "precision": np.tile(np.eye(dim), (components, 1, 1)),
    }
    return Problem(_mixture, (y, components), start, {"y": y, **start})


def _regression(x: Any, y: Any) -> None:
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)


def regression(rows: int = 10_000, features: int = 10) -> Problem:
    """Linear regression with unknown noise."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, features))
    y = x @ rng.normal(size=features) + 0.7 * rng.normal(size=rows)
    start = {"tau": np.asarray(1.0)}
    return Problem(_regression, (x, y), start, {"x": x, "y": y, **start})


def _pca(y: Any, rank: int) -> None:
    rows, columns = y.shape
    alpha = numpyro.sample("alpha", dist.Gamma(1e-3, 1e-3).expand([rank]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("columns", columns):
        c = numpyro.sample("c", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).to_event(1))
    with numpyro.plate("rows", rows):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([rank]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ c.T, 1 / jnp.sqrt(tau)).to_event(1), obs=y)


def pca() -> Problem:
    """Three principal components of two, the data of BayesPy's guide.

    That prints 847 sweeps to a relative tolerance of 1e-6 without rotation and 18 with, to an ELBO
    of -122.1354. Half of its columns are missing, which BayesPy leaves out of the model; so are
    they here. The components start at a precision of 100 around those of the guide.
    """
    random = np.random.RandomState(1)
    c, x = random.randn(10, 2), random.randn(2, 100)
    seen = np.asarray([1, 0, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    y = (c @ x + 0.1 * random.randn(10, 100)).T[:, seen]
    start = {"c": random.randn(10, 3)[seen], "alpha": np.ones(3), "tau": np.asarray(1.0)}
    return Problem(_pca, (y, 3), start, {"y": y, **start})


def _clutter(y: Any) -> None:
    theta = numpyro.sample("theta", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        loc = jnp.stack([jnp.zeros_like(theta), theta])[z]
        scale = jnp.sqrt(jnp.asarray([10.0, 1.0]))[z]
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def clutter(start: float) -> Problem:
    """A location among clutter (Minka, 2001), two rows: the ELBO has two optima.

    The log evidence is -5.10547, the posterior's mean 0.6371 and its variance 51.60.
    """
    y = np.asarray([0.1, 2.3])
    return Problem(_clutter, (y,), {"theta": np.asarray(start)}, {"y": y})


def _line(x: Any, y: Any) -> None:
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(intercept + slope * x, 1 / jnp.sqrt(tau)), obs=y)


def line() -> Problem:
    """A line through rows far from zero: intercept and slope are correlated by -0.998."""
    rng = np.random.default_rng(4)
    x = 10 + rng.normal(size=30) * 0.6
    return Problem(_line, (x, 1 + 0.5 * x + 0.3 * rng.normal(size=30)), {}, {})


def line_slope() -> tuple[float, float]:
    """The exact mean and sd of the slope, by quadrature over the precision."""
    x, y = line().args
    design = np.column_stack([np.ones(len(x)), x])
    taus = np.exp(np.linspace(-1, 5, 601))
    weights, means, variances = [], [], []
    for tau in taus:
        marginal = np.eye(len(x)) / tau + 100 * design @ design.T
        covariance = np.linalg.inv(np.eye(2) / 100 + tau * design.T @ design)
        log_prior = stats.gamma(2.0).logpdf(tau) + np.log(tau)
        weights.append(stats.multivariate_normal(np.zeros(len(x)), marginal).logpdf(y) + log_prior)
        means.append((covariance @ design.T @ y * tau)[1])
        variances.append(covariance[1, 1])
    share = np.exp(weights - logsumexp(weights))
    mean = share @ means
    return float(mean), float(np.sqrt(share @ (np.asarray(variances) + (means - mean) ** 2)))


def _labels(y: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def labels() -> Problem:
    """Two separate components whose labels may be exchanged: the posterior has two modes."""
    rng = np.random.default_rng(5)
    return Problem(_labels, (rng.choice([-3.0, 3.0], size=60) + rng.normal(size=60),), {}, {})


class Counts(NamedTuple):
    """Counts of items by users; some of the positive ones are held out (zero in `table`)."""

    table: np.ndarray
    user: np.ndarray
    item: np.ndarray
    count: np.ndarray


def _factorization(user: Any, item: Any, count: Any, shape: tuple[int, int], rank: int) -> None:
    """Hierarchical Poisson factorization (Gopalan, Hofman and Blei, 2015), hpfrec's priors.

    Positive counts are sites; all others are zero, with probability `exp(-sum of their rates)`.
    """
    users, items = shape
    with numpyro.plate("items", items):
        popularity = numpyro.sample("popularity", dist.Gamma(0.3, 0.3))
        row = dist.Gamma(0.3, jnp.broadcast_to(popularity[:, None], (items, rank)))
        beta = numpyro.sample("beta", row.to_event(1))
    with numpyro.plate("users", users):
        activity = numpyro.sample("activity", dist.Gamma(0.3, 0.3))
        row = dist.Gamma(0.3, jnp.broadcast_to(activity[:, None], (users, rank)))
        theta = numpyro.sample("theta", row.to_event(1))
    rate = (theta[user] * beta[item]).sum(-1)
    with numpyro.plate("counts", len(count)):
        numpyro.sample("count", dist.Poisson(rate), obs=count)
    numpyro.factor("zeros", rate.sum() - (theta.sum(0) * beta.sum(0)).sum())


def factorization(data: Counts, rank: int, seed: int) -> Problem:
    """From factors near their prior means."""
    user, item = np.nonzero(data.table)
    count, shape = data.table[user, item], data.table.shape
    rng = np.random.default_rng(seed)
    start = {
        "theta": rng.uniform(0.5, 1.5, size=(shape[0], rank)),
        "beta": rng.uniform(0.5, 1.5, size=(shape[1], rank)),
        "activity": np.ones(shape[0]),
        "popularity": np.ones(shape[1]),
    }
    arrays = {"user": user, "item": item, "count": count}
    return Problem(_factorization, (user, item, count, shape, rank), start, arrays)


def counts(users: int = 600, items: int = 400, rank: int = 10) -> Counts:
    """Counts with gamma factors, one in seven positive, of which a tenth is held out."""
    rng = np.random.default_rng(3)
    theta = rng.gamma(0.1, 1.0, size=(users, rank)) * rng.gamma(2.0, 1.0, size=(users, 1))
    beta = rng.gamma(0.1, 1.0, size=(items, rank)) * rng.gamma(2.0, 1.0, size=(items, 1))
    table = rng.poisson(theta @ beta.T)
    user, item = np.nonzero(table)
    chosen = rng.random(len(user)) < 0.1
    user, item = user[chosen], item[chosen]
    held_out = table[user, item].copy()
    table[user, item] = 0
    users_left, items_left = table.any(1), table.any(0)
    known = users_left[user] & items_left[item]
    return Counts(
        table[users_left][:, items_left],
        (np.cumsum(users_left) - 1)[user[known]],
        (np.cumsum(items_left) - 1)[item[known]],
        held_out[known],
    )


def held_out(theta: np.ndarray, beta: np.ndarray, data: Counts) -> float:
    """Log probability of a held-out count under the expected factors, on average."""
    rate = (theta[data.user] * beta[data.item]).sum(-1)
    return float(stats.poisson.logpmf(data.count, rate).mean())


def rows(y: Any, components: int) -> None:
    """A Gaussian mixture with a precision per component and coordinate."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([y.shape[1]]).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0).expand([y.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])).to_event(1), obs=y)


def log_density(draws: dict[str, np.ndarray], y: np.ndarray) -> float:
    """Log density of a row of `rows` under posterior draws of its parameters, on average."""
    by_draw = []
    for weights, mu, tau in zip(draws["weights"], draws["mu"], draws["tau"], strict=True):
        normal = stats.norm(mu, tau**-0.5).logpdf(y[:, None]).sum(-1)
        by_draw.append(logsumexp(np.log(weights) + normal, axis=-1))
    return float(np.mean(logsumexp(by_draw, axis=0) - np.log(len(by_draw))))
