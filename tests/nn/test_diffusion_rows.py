"""Bounds and draws of rows in blocks, with conditions, with latents of each row."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax.posterior import row_bounds
from vijax.runtime.keys import as_key
from vijax.runtime.row_densities import row_densities

SD = 0.6
OPTIONS = {"batch_size": 50, "num_steps": 20, "optimizer": optax.adam(3e-3), "progress_bar": False}


def around(mean):
    """The expected noise of rows with independent `N(mean, SD^2)`."""

    def net(z, time):
        gamma = (21 * time - 9)[:, None]
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
        return sigma * (z - alpha * mean[:, None]) / (alpha**2 * SD**2 + sigma**2)

    return net


def labelled(x, label):
    shift = numpyro.param("shift", jnp.zeros(()))
    with numpyro.plate("rows", len(x)):
        vijax.nn.diffusion("x", around(label + shift), x, log_snr=(9.0, -12.0))


RNG = np.random.default_rng(0)
LABEL = RNG.integers(-2, 3, 203).astype(np.float32)
X = (LABEL[:, None] + SD * RNG.normal(size=(203, 2))).astype(np.float32)


def parts(posterior, num_draws=64):
    asked = row_bounds.Question("x", num_draws, None, 40)
    return row_bounds.bound(posterior._result, as_key(0), ((), {}), asked)


def test_rows_are_evaluated_in_blocks_with_their_conditions(monkeypatch):
    posterior = vijax.fit(labelled, X, LABEL, **OPTIONS | {"optimizer": optax.sgd(0.0)})
    whole = parts(posterior)
    monkeypatch.setattr(row_bounds, "_BLOCK_ROWS", 50)  # 41 rows, the last of 39
    blocks = parts(posterior)
    np.testing.assert_allclose(blocks.parts["prior"], whole.parts["prior"], rtol=1e-5)
    exact = dist.Normal(LABEL[:, None], SD).log_prob(X).sum(1)
    for found in (whole, blocks):
        np.testing.assert_allclose(found.ode, exact, atol=0.02)
        gap = found.by_row - exact
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(X)) + 0.02 < 0.6
        assert found.by_row.shape == (203,)


def test_levels_of_known_probabilities_have_their_entropy_as_bound():
    probs = jnp.array([0.1, 0.2, 0.3, 0.4])
    values = (2 * jnp.arange(4) + 1) / 4 - 1
    x = np.repeat(np.arange(4), [200, 400, 600, 800])[:, None]

    def net(z, time):
        gamma = (18 * time - 9)[:, None]
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
        logits = jnp.log(probs) - 0.5 * ((z - alpha * values) / sigma) ** 2
        mean = jnp.sum(jax.nn.softmax(logits) * values, axis=1, keepdims=True)
        return (z - alpha * mean) / sigma

    with row_densities() as found, numpyro.handlers.seed(rng_seed=0):
        vijax.nn.diffusion("x", net, x, levels=4, log_snr=(9.0, -9.0))
    keys = jax.random.split(jax.random.key(0), 200)
    losses = np.asarray(jax.jit(jax.vmap(found["x"].loss))(keys), float)
    entropy = -float(jnp.sum(probs * jnp.log(probs)))
    se = losses.mean(axis=1).std() / math.sqrt(200)
    assert abs(losses.mean() - entropy) < 4 * se + 1e-3
    assert se < 0.015 * entropy


def encoder(rngs):
    return nnx.Linear(2, 2, rngs=rngs)


def hierarchical(x):
    with numpyro.plate("rows", len(x)):
        mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))
        vijax.nn.diffusion("x", around(mean), x, log_snr=(9.0, -12.0))


@pytest.mark.slow
def test_latents_of_rows_have_their_divergence_in_the_bound_and_are_drawn_from_the_prior():
    amortized = vijax.guides.Amortized(encoder, "x")
    posterior = vijax.fit(hierarchical, X, guide=amortized, **OPTIONS)
    table = posterior.bound(num_draws=128)
    se = math.hypot(posterior.elbo_se / 203, table.loc["diffusion"].se)
    assert abs(table.loc["bound"].value - posterior.elbo / 203) < 3 * se
    assert table.loc["latents"].value > 0.5
    drawn = np.concatenate([posterior.generate(rng_key=k, num_steps=50) for k in range(10)])
    expected = np.array([[4 + SD**2, 4], [4, 4 + SD**2]])
    np.testing.assert_allclose(drawn.mean(0), 1.0, atol=4 * math.sqrt(4.36 / 2030))
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=4 * 4.36 * math.sqrt(2 / 2030))
    with pytest.raises(vijax.ModelError, match="ode_steps"):
        posterior.bound(ode_steps=2)
    by_row = vijax.fit(hierarchical, X, guide="meanfield", **OPTIONS)
    with pytest.raises(vijax.GuideError, match="Amortized"):
        by_row.bound()
