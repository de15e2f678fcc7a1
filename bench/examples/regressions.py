"""Regressions: sparse priors, Gaussian processes and their approximation, neural networks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bench.examples.case import Example


def _sparse(rows=80, columns=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    return x, x[:, 0] - 0.7 * x[:, 1] + rng.normal(0, 0.5, rows)


def horseshoe():
    def model(x, y):
        width = x.shape[1]
        local = numpyro.sample("local", dist.HalfCauchy(jnp.ones(width)).to_event(1))
        shared = numpyro.sample("shared", dist.HalfCauchy(1.0))
        z = numpyro.sample("z", dist.Normal(jnp.zeros(width), 1.0).to_event(1))
        beta = numpyro.deterministic("beta", shared * local * z)
        precision = numpyro.sample("precision", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Normal(x @ beta, precision**-0.5), obs=y)

    return Example(model, _sparse(), compared=("beta", "precision"))


def sparse_regression():
    """A kernel of pairwise interactions with a regularized horseshoe on the columns."""

    def model(x, y):
        rows, width = x.shape
        sigma = numpyro.sample("sigma", dist.HalfNormal(3.0))
        phi = sigma * 0.1 * numpyro.sample("shared", dist.HalfCauchy(1.0))
        slab = numpyro.sample("slab", dist.InverseGamma(2.0, 2.0))
        local = numpyro.sample("local", dist.HalfCauchy(jnp.ones(width)).to_event(1))
        pairs = numpyro.sample("pairs", dist.InverseGamma(5.0, 1.0)) / jnp.square(phi)
        kappa = jnp.sqrt(slab) * local / jnp.sqrt(slab + jnp.square(phi * local))
        dot = (kappa * x) @ (kappa * x).T
        noise = (sigma**2 + 1e-4) * jnp.eye(rows)
        kernel = phi**2 * dot + 0.5 * (pairs * phi**2) ** 2 * jnp.square(dot) + 0.1 + noise
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(rows), kernel), obs=y)

    return Example(model, _sparse(40, 6), nuts="same", compared=("sigma",))


def gaussian_process():
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 30)
    y = x + 0.3 * np.sin(6 * x) + rng.normal(0, 0.15, 30)

    def model(x, y):
        variance = numpyro.sample("variance", dist.LogNormal(0.0, 2.0))
        noise = numpyro.sample("noise", dist.LogNormal(0.0, 2.0))
        length = numpyro.sample("length", dist.LogNormal(0.0, 2.0))
        kernel = variance * jnp.exp(-0.5 * jnp.square((x[:, None] - x) / length))
        kernel += (noise + 1e-5) * jnp.eye(len(x))
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), kernel), obs=y)

    return Example(model, (x, y))


def hilbert_space_gp():
    rng = np.random.default_rng(2)
    x = np.linspace(-1, 1, 120)
    y = np.sin(4 * x) + rng.normal(0, 0.2, 120)
    number, limit = 15, 1.5

    def model(x, y):
        amplitude = numpyro.sample("amplitude", dist.LogNormal(0.0, 0.5))
        length = numpyro.sample("length", dist.LogNormal(-1.0, 0.5))
        noise = numpyro.sample("noise", dist.HalfNormal(0.5))
        root = jnp.arange(1, number + 1) * jnp.pi / (2 * limit)
        basis = jnp.sin(root * (x[:, None] + limit)) / jnp.sqrt(limit)
        density = amplitude * jnp.sqrt(jnp.sqrt(2 * jnp.pi) * length)
        density *= jnp.exp(-0.25 * (length * root) ** 2)
        beta = numpyro.sample("beta", dist.Normal(jnp.zeros(number), 1.0).to_event(1))
        f = basis @ (density * beta)
        numpyro.deterministic("f", f[::20])
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(f, noise), obs=y)

    return Example(model, (x, y))


def neural_network():
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(60), np.linspace(-1, 1, 60)])
    y = np.tanh(2 * x[:, 1]) + 0.1 * rng.normal(size=60)
    hidden = 4

    def model(x, y):
        w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((2, hidden)), 1.0).to_event(2))
        w2 = numpyro.sample("w2", dist.Normal(jnp.zeros((hidden, hidden)), 1.0).to_event(2))
        w3 = numpyro.sample("w3", dist.Normal(jnp.zeros(hidden), 1.0).to_event(1))
        f = jnp.tanh(jnp.tanh(x @ w1) @ w2) @ w3
        numpyro.deterministic("f", f[::10])
        precision = numpyro.sample("precision", dist.Gamma(3.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(f, precision**-0.5), obs=y)

    return Example(model, (x, y), compared=("f", "precision"))


def with_missing_ages():
    """Imputation of a covariate: a latent for every missing value."""
    rng = np.random.default_rng(4)
    age = rng.normal(size=120)
    y = rng.binomial(1, 1 / (1 + np.exp(-0.8 * age + 0.4)))
    missing = rng.random(120) < 0.2
    age = np.where(missing, np.nan, age)

    def model(age, known, y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))
        hole = numpyro.sample(
            "hole", dist.Normal(mean, sd).expand([int((~known).sum())]).mask(False)
        )
        full = jnp.asarray(np.where(known, age, 0.0)).at[np.flatnonzero(~known)].set(hole)
        numpyro.sample("age", dist.Normal(mean, sd), obs=full)
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=a + b * full), obs=y)

    return Example(model, (age, ~missing, y), compared=("mean", "sd", "a", "b"))


EXAMPLES = {
    "horseshoe_regression": horseshoe,
    "sparse_regression": sparse_regression,
    "gp": gaussian_process,
    "hsgp": hilbert_space_gp,
    "bnn": neural_network,
    "bayesian_imputation": with_missing_ages,
}
