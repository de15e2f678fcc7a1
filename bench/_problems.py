"""Models and data shared by several benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

_DATA = Path(__file__).parents[2] / "shared" / "data"  # optional; simulated data without it
LAYERS = (784, 400, 400, 10)
BATCH = 128


class Problem(NamedTuple):
    """A model, its arguments, and the source of the data."""

    model: Callable[..., None]
    args: tuple[Any, ...]
    source: str


def eight_schools() -> Problem:
    """Non-centered, dimension 10."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
    sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)

    def model(sigma, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", len(y)):
            raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)

    return Problem(model, (sigma, y), "Rubin, 1981")


def varying_intercepts() -> Problem:
    """Radon in houses by county, centered, dimension 89."""
    path = _DATA / "small" / "radon_mn.csv"
    if path.exists():
        rows = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(1, 2, 4))
        y, basement, county = rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int32) - 1
        source = "radon in Minnesota, 919 houses in 85 counties"
    else:
        rng = np.random.default_rng(0)
        county = np.concatenate([np.arange(85), rng.integers(0, 85, 834)])
        basement = rng.binomial(1, 0.17, 919)
        effect = rng.normal(1.5, 0.3, 85)
        y = effect[county] - 0.7 * basement + rng.normal(0, 0.75, 919)
        source = "simulated: 919 rows in 85 groups"
    size = int(county.max()) + 1

    def model(county, basement, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("counties", size):
            intercept = numpyro.sample("intercept", dist.Normal(mu, tau))
        mean = intercept[county] + slope * basement
        with numpyro.plate("houses", len(y)):
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    return Problem(model, (county, basement.astype(np.float32), y.astype(np.float32)), source)


def breast_cancer() -> Problem:
    """Logistic regression of 569 tumors on 30 standardized features, dimension 31."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    x = np.concatenate([np.ones((len(x), 1), np.float32), x], axis=1)
    return Problem(logistic, (x, y.astype(np.float32)), "scikit-learn")


def covertype(rows: int = 5_000) -> Problem:
    """Logistic regression for lodgepole pine on ten standardized features, dimension 11."""
    path = _DATA / "covtype100k" / "covtype100k.npz"
    rng = np.random.default_rng(0)
    if path.exists():
        with np.load(path) as file:
            some = rng.choice(len(file["y"]), rows, replace=False)
            x, y = file["x_num"][some].astype(float), file["y"][some] == 2
        x, source = (x - x.mean(0)) / x.std(0), f"Covertype, {rows} patches"
    else:
        x = rng.normal(size=(rows, 10))
        y = rng.random(rows) < 1 / (1 + np.exp(-x @ rng.normal(size=10)))
        source = f"simulated: {rows} x 10"
    x = np.concatenate([np.ones((rows, 1)), x], axis=1).astype(np.float32)
    return Problem(logistic, (x, y.astype(np.float32)), source)


def wide_logistic(rows: int = 10_000, columns: int = 100) -> Problem:
    """Logistic regression on simulated data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    logits = x @ rng.normal(size=columns) / np.sqrt(columns)
    y = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return Problem(logistic, (x, y), f"simulated: {rows} x {columns}")


def logistic(x, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def network() -> Problem:
    """A 784-400-400-10 Bayesian network on minibatches of MNIST."""
    path = _DATA / "mnist" / "mnist.npz"
    if path.exists():
        with np.load(path) as file:
            x = file["x_train"].reshape(-1, LAYERS[0]).astype(np.float32) / 126
            y = file["y_train"].astype(np.int32)
        source = "MNIST"
    else:
        rng = np.random.default_rng(0)
        x = rng.random((60_000, LAYERS[0]), np.float32) * (rng.random(LAYERS[0]) < 0.2)
        y = rng.integers(0, LAYERS[-1], 60_000).astype(np.int32)
        source = "simulated, of the shape of MNIST"

    def model(x, y):
        layers = []
        for i, shape in enumerate(itertools.pairwise(LAYERS)):
            weight = numpyro.sample(f"w{i}", dist.Normal(0.0, 1.0).expand(shape).to_event(2))
            bias = numpyro.sample(f"b{i}", dist.Normal(0.0, 1.0).expand(shape[1:]).to_event(1))
            layers.append((weight, bias))
        with numpyro.plate("n", len(y), subsample_size=BATCH):
            rows = numpyro.subsample(x, event_dim=1)
            logits = forward(layers, rows)
            numpyro.sample(
                "y", dist.Categorical(logits=logits), obs=numpyro.subsample(y, event_dim=0)
            )

    return Problem(model, (jnp.asarray(x), jnp.asarray(y)), source)


def forward(layers, x):
    """Outputs of a network with ReLU hidden layers."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias
