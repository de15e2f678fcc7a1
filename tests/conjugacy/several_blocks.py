"""Models with several conjugate blocks: coordinate ascent, no closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tests.conjugacy.case import Case, Family

RNG = np.random.default_rng(22)
NORMAL, VECTOR = Family("Normal"), Family("MultivariateNormal")
GAMMA, BETA, DIRICHLET = Family("Gamma"), Family("Beta"), Family("Dirichlet")

X = RNG.normal(size=(5, 2))
Y = X @ [1.0, -0.7] + 0.6 * RNG.normal(size=5)


def golden(y):
    """Normal data with unknown mean and precision, vague priors."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1000.0))
    tau = numpyro.sample("tau", dist.Gamma(1e-6, 1e-6))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def _regression(x, y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    w = numpyro.sample("w", dist.Normal(0.0, 1.3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)


def _regression_variance(x, y):
    v = numpyro.sample("v", dist.InverseGamma(2.0, 1.5))
    w = numpyro.sample("w", dist.Normal(0.0, 1.3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(jnp.dot(x, w), v**0.5), obs=y)


def _relevance(x, y):
    """A precision per weight: automatic relevance determination."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with numpyro.plate("features", 2):
        alpha = numpyro.sample("alpha", dist.Gamma(1.5, 0.8))
        w = numpyro.sample("w", dist.Normal(0.0, alpha**-0.5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal((x * w).sum(-1), 1 / jnp.sqrt(tau)), obs=y)


GROUP = np.asarray([0, 1, 1, 0, 2])


def _groups(group, y):
    """Levels of groups, indexed by an array of data."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with numpyro.plate("groups", 3):
        level = numpyro.sample("level", dist.Normal(mu, 0.8))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(level[group], 1 / jnp.sqrt(tau)), obs=y)


def _nested(y):
    """Rows within groups; the spread of levels, and a precision per group."""
    lam = numpyro.sample("lam", dist.Gamma(2.0, 1.5))
    with numpyro.plate("groups", 2, dim=-2):
        level = numpyro.sample("level", dist.Normal(0.3, 1 / jnp.sqrt(lam)))
        tau = numpyro.sample("tau", dist.Gamma(2.5, 1.0))
        with numpyro.plate("rows", 3, dim=-1):
            numpyro.sample("y", dist.Normal(level, 1 / jnp.sqrt(tau)), obs=y)


def _crossed(y, seen):
    """Effects of rows and of columns, missing entries."""
    rows, columns = numpyro.plate("rows", 2, dim=-2), numpyro.plate("columns", 3, dim=-1)
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with rows:
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with columns:
        b = numpyro.sample("b", dist.Normal(0.0, 1.5))
    with rows, columns:
        numpyro.sample("y", dist.Normal(a + b, 1 / jnp.sqrt(tau)).mask(seen), obs=y)


def pca(y, rank):
    """Principal components: `y ~ N(x c', 1 / tau)`, a precision per component."""
    rows, columns = y.shape
    alpha = numpyro.sample("alpha", dist.Gamma(1.5, 0.8).expand([rank]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with numpyro.plate("columns", columns):
        c = numpyro.sample("c", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).to_event(1))
    with numpyro.plate("rows", rows):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([rank]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ c.T, 1 / jnp.sqrt(tau)).to_event(1), obs=y)


USER, ITEM = np.asarray([0, 1, 1, 0, 1]), np.asarray([0, 0, 1, 2, 2])


def _factorization(user, item, y):
    """Ratings of items by users, with two factors."""
    with numpyro.plate("users", 2):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("items", 3):
        v = numpyro.sample("v", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    with numpyro.plate("ratings", len(y)):
        numpyro.sample("y", dist.Normal((u[user] * v[item]).sum(-1), 0.5), obs=y)


def _gamma_hierarchy(y):
    """Rates of groups with an unknown rate parameter."""
    b = numpyro.sample("b", dist.Gamma(2.0, 1.0))
    with numpyro.plate("groups", len(y)):
        rate = numpyro.sample("rate", dist.Gamma(3.0, b))
        numpyro.sample("y", dist.Poisson(2.0 * rate), obs=y)


def _wishart_hierarchy(y):
    """Vectors of groups with an unknown precision matrix, known noise."""
    precision = numpyro.sample("L", dist.Wishart(4.0, jnp.eye(2) / 4))
    with numpyro.plate("groups", len(y)):
        prior = dist.MultivariateNormal(jnp.zeros(2), precision_matrix=precision)
        z = numpyro.sample("z", prior)
        numpyro.sample("y", dist.Normal(z, 0.7).to_event(1), obs=y)


def _products(y):
    """Normal means that are products of scalars, used twice."""
    a = numpyro.sample("a", dist.Normal(1.0, 1.0))
    b = numpyro.sample("b", dist.Normal(-1.0, 1.0))
    numpyro.deterministic("area", a * b)
    numpyro.sample("y", dist.Normal(2.0 * a * b - b + 0.5, 0.7), obs=y[0])
    numpyro.sample("z", dist.Normal(jnp.stack([a, b]), 1.1).to_event(1), obs=y[1:3])


def _rates(y):
    """Products and quotients of gamma variables."""
    a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        b = numpyro.sample("b", dist.Gamma(3.0, 2.0))
        numpyro.sample("y", dist.Poisson(a * b), obs=y)
        numpyro.sample("z", dist.Normal(0.0, jnp.sqrt(2.0 / (a * b))), obs=y / 3.0)


def _masked_events(y, seen):
    """Missing entries of vectors: the mask inside of the event."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    mu = numpyro.sample("mu", dist.Normal(0.3, 1.0).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        row = dist.Normal(mu, 1 / jnp.sqrt(tau)).mask(seen).to_event(1)
        numpyro.sample("y", row, obs=y)


def _links(x, y):
    """Many ways to write an affine mean and a power of precisions."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5).expand([2]).to_event(1))
    rho = numpyro.sample("rho", dist.Gamma(2.5, 1.0).expand([2]).to_event(1))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    b = numpyro.sample("b", dist.Normal(0.5, 1.0))
    linear = jax.vmap(lambda row: jnp.einsum("ij,j->i", w.T, row))(x)
    walk = jnp.cumsum(jnp.stack([-b, b / 4])) + jnp.where(jnp.asarray([True, False]), b, 2.0)
    loc = linear.reshape(-1)[::-1].reshape(linear.shape) + walk - 0.1
    scale = jnp.exp(-0.5 * jnp.log(tau)) * jnp.sqrt(1 / jnp.flip(rho)) * 0.7
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y)


def _random_walk(y):
    """A path with unknown increments."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    path = numpyro.sample("path", dist.GaussianRandomWalk(1 / jnp.sqrt(tau), len(y)))
    numpyro.sample("y", dist.Normal(path, 0.5).to_event(1), obs=y)


def _rows_and_columns(y):
    """A precision for each row and one for each column."""
    column = numpyro.sample("column", dist.Gamma(2.0, 1.0).expand([y.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        row = numpyro.sample("row", dist.Gamma(1.5, 2.0))
        scale = 1 / jnp.sqrt(row[:, None] * column)
        numpyro.sample("y", dist.Normal(0.0, scale).to_event(1), obs=y)


COUNTS = np.asarray([3, 0, 5])


def gaussian_mixture(y, components):
    """Components with means and precisions of their own."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(components, 1.5)))
    with numpyro.plate("components", components):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=y)


def _vector_mixture(y):
    """Components with mean vectors and precision matrices."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2)))
        precision = numpyro.sample("L", dist.Wishart(4.0, jnp.eye(2) / 4))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        row = dist.MultivariateNormal(mu[z], precision_matrix=precision[z])
        numpyro.sample("y", row, obs=y)


def _categorical_mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        p = numpyro.sample("p", dist.Dirichlet(jnp.asarray([0.8, 1.0, 1.4])))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Categorical(p[z]), obs=y)


def _poisson_mixture(y):
    """Two components, chosen by Bernoulli variables."""
    share = numpyro.sample("share", dist.Beta(1.5, 2.0))
    with numpyro.plate("components", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


def _sticks(y):
    """A truncated Dirichlet process: weights by stick breaking."""
    with numpyro.plate("sticks", 2):
        v = numpyro.sample("v", dist.Beta(1.0, 2.0))
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    left = jnp.cumprod(1 - v)
    weights = jnp.concatenate([v, jnp.ones(1)]) * jnp.concatenate([jnp.ones(1), left])
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 0.6), obs=y)


def _topics(document, words):
    """Latent Dirichlet allocation, a token per row."""
    with numpyro.plate("topics", 2):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(3, 0.7)))
    with numpyro.plate("documents", 2):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(2, 0.9)))
    with numpyro.plate("tokens", len(words)):
        z = numpyro.sample("z", dist.Categorical(theta[document]))
        numpyro.sample("word", dist.Categorical(phi[z]), obs=words)


def clutter(y):
    """A location among clutter (Minka, 2001): two optima, one of which calls all rows clutter."""
    theta = numpyro.sample("theta", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        loc = jnp.stack([jnp.zeros_like(theta), theta])[z]
        scale = jnp.sqrt(jnp.asarray([10.0, 1.0]))[z]
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)


TWO = np.asarray([[0.4, 1.1, -0.3], [1.0, 0.2, 0.9]])
SEEN = np.asarray([[True, False, True], [True, True, False]])
LOW = np.asarray([-1.3, 0.9, 1.4])
TOKENS = np.asarray([0, 2, 2, 1])

SEVERAL_BLOCKS = {
    "mean and precision": Case(golden, (Y,), {"mu": NORMAL, "tau": GAMMA}),
    "regression, precision": Case(_regression, (X, Y), {"tau": GAMMA, "w": VECTOR}),
    "regression, variance": Case(
        _regression_variance, (X, Y), {"v": Family("Gamma", -1), "w": VECTOR}
    ),
    "relevance determination": Case(
        _relevance, (X, Y), {"tau": GAMMA, "alpha": GAMMA, "w": VECTOR}
    ),
    "groups by index": Case(_groups, (GROUP, Y), {"mu": NORMAL, "tau": GAMMA, "level": NORMAL}),
    "nested plates": Case(_nested, (TWO,), {"lam": GAMMA, "level": NORMAL, "tau": GAMMA}),
    "crossed plates, missing entries": Case(
        _crossed, (TWO, SEEN), {"tau": GAMMA, "a": NORMAL, "b": NORMAL}
    ),
    "rows and columns": Case(_rows_and_columns, (TWO,), {"column": GAMMA, "row": GAMMA}),
    "missing entries of events": Case(_masked_events, (TWO, SEEN), {"tau": GAMMA, "mu": NORMAL}),
    "principal components": Case(
        pca, (TWO.T[:2], 2), {"alpha": GAMMA, "tau": GAMMA, "c": VECTOR, "x": VECTOR}
    ),
    "matrix factorization": Case(_factorization, (USER, ITEM, Y), {"u": VECTOR, "v": VECTOR}),
    "random walk": Case(_random_walk, (Y[:3],), {"tau": GAMMA, "path": VECTOR}),
    "gamma hierarchy": Case(_gamma_hierarchy, (COUNTS,), {"b": GAMMA, "rate": GAMMA}),
    "precision matrix of groups": Case(
        _wishart_hierarchy, (TWO.T,), {"L": Family("Wishart"), "z": VECTOR}
    ),
    "products of normal variables": Case(_products, (Y,), {"a": NORMAL, "b": NORMAL}),
    "products of gamma variables": Case(_rates, (COUNTS,), {"a": GAMMA, "b": GAMMA}),
    "ways of writing": Case(
        _links, (X[:2], X[2:4]), {"tau": GAMMA, "rho": GAMMA, "w": VECTOR, "b": NORMAL}
    ),
    "Gaussian mixture": Case(
        gaussian_mixture,
        (LOW, 2),
        {"weights": DIRICHLET, "mu": NORMAL, "tau": GAMMA},
        {"z": 2},
    ),
    "Gaussian mixture, vectors": Case(
        _vector_mixture,
        (TWO.T,),
        {"weights": DIRICHLET, "mu": VECTOR, "L": Family("Wishart")},
        {"z": 2},
    ),
    "categorical mixture": Case(
        _categorical_mixture, (TOKENS,), {"weights": DIRICHLET, "p": DIRICHLET}, {"z": 2}
    ),
    "Poisson mixture": Case(_poisson_mixture, (COUNTS,), {"share": BETA, "rate": GAMMA}, {"z": 2}),
    "clutter": Case(clutter, (np.asarray([0.1, 2.3]),), {"theta": NORMAL}, {"z": 2}),
    "stick-breaking mixture": Case(_sticks, (LOW,), {"v": BETA, "mu": NORMAL}, {"z": 3}),
    "topics": Case(
        _topics,
        (np.asarray([0, 0, 1, 1]), TOKENS),
        {"phi": DIRICHLET, "theta": DIRICHLET},
        {"z": 2},
    ),
}
