"""Sums over blocks of rows are those over all rows at once, and so are their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from tests.conjugacy.reading import random_expectations, read
from vijax.model.conjugacy import row_blocks

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(11, 3))
SEEN = RNG.random((11, 3)) < 0.7
ROW = SEEN.any(1)
WORDS = RNG.integers(4, size=(5, 7))
COUNTS = RNG.poisson(2.0, size=(7, 2))
SERIES = RNG.normal(size=(4, 6))


def _weights(size=3):
    return numpyro.sample("weights", dist.Dirichlet(jnp.ones(size)))


def columns(y, seen, row):
    """Independent columns, missing entries and missing rows, a weight for each row."""
    weights = _weights()
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)), numpyro.handlers.scale(scale=1.0 + row):
        z = numpyro.sample("z", dist.Categorical(weights))
        one = dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])[..., None]).mask(seen)
        with numpyro.handlers.mask(mask=row):
            numpyro.sample("y", one.to_event(1), obs=jnp.where(seen, y, jnp.nan))


def heavy_tails(y):
    """A local precision for each row, columns with noise of their own."""
    weights = _weights(2)
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([2, 3]).to_event(2))
    noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        own = numpyro.sample("own", dist.Gamma(2.0, 2.0))
        z = numpyro.sample("z", dist.Categorical(weights))
        scale = 1 / jnp.sqrt(own[..., None] * noise)
        numpyro.sample("y", dist.Normal(mu[z], scale).to_event(1), obs=y)


def correlated(y):
    weights = _weights(2)
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(3), 4 * jnp.eye(3)))
        precision = numpyro.sample("L", dist.Wishart(5.0, jnp.eye(3) / 4))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        row = dist.MultivariateNormal(mu[z], precision_matrix=precision[z])
        numpyro.sample("y", row, obs=y)


def topics(words):
    """Rows of two plates, the outer ones with weights of their own."""
    documents, length = words.shape
    with numpyro.plate("topics", 2):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(4, 0.7)))
    with numpyro.plate("documents", documents, dim=-2):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(2, 0.9)))
        with numpyro.plate("tokens", length, dim=-1):
            z = numpyro.sample("z", dist.Categorical(theta))
            numpyro.sample("word", dist.Categorical(phi[z]), obs=words)


def two_labels(y):
    """A label of rows, and one of cells given that of the row."""
    with numpyro.plate("kinds", 2):
        share = numpyro.sample("share", dist.Beta(1.0, 2.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y), dim=-2):
        kind = numpyro.sample("kind", dist.Bernoulli(0.3))
        with numpyro.plate("cells", y.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Bernoulli(share[kind]))
            numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


def series(y):
    """Hidden Markov models, one for each row."""
    with numpyro.plate("states", 2):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))

    def step(before, now):
        with numpyro.plate("series", y.shape[1]):
            z = numpyro.sample("z", dist.Categorical(p[before]))
            numpyro.sample("y", dist.StudentT(4.0, mu[z], 1.0), obs=now)
        return z, None

    scan(step, jnp.zeros(y.shape[1], int), y)


MODELS = {  # with elements of a block
    columns: ((TABLE, SEEN, ROW), 60),
    heavy_tails: ((TABLE,), 40),
    correlated: ((TABLE,), 40),
    topics: ((WORDS,), 60),
    two_labels: ((COUNTS,), 8),
    series: ((SERIES,), 60),
}
QUICK = (columns,)


@pytest.mark.parametrize(
    "model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MODELS]
)
def test_blocks_of_rows(monkeypatch, model):
    args, elements = MODELS[model]
    with jax.enable_x64(True):
        target, plan, batch = read(model, args)
        rng = np.random.default_rng(1)
        of = {block.name: random_expectations(block, rng) for block in plan.blocks}
        used = []
        sum_of = row_blocks.Blocks.sum
        monkeypatch.setattr(row_blocks, "_LEAST", 2)
        monkeypatch.setattr(row_blocks.Blocks, "sum", lambda b, f: used.append(b) or sum_of(b, f))

        def found(elements):
            monkeypatch.setattr(row_blocks, "_ELEMENTS", elements)
            function = jax.value_and_grad(
                lambda of: target.functions.expected_log_joint(plan, of, batch)
            )
            return jax.jit(function)(of)

        whole, gradient = found(2**30)
        assert not used
        value, slope = found(elements)
        assert used[0].length < used[0].size
        assert float(value) == pytest.approx(float(whole), rel=1e-12)
        for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
