"""Masked diffusion: the bound beside a sum over all masks, draws beside their probabilities."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest

import vijax
from vijax.runtime.row_densities import row_densities

DIM = 8
STATES = np.array(list(itertools.product((0, 1), repeat=DIM)), np.int32)
LOG_PROBS = jax.nn.log_softmax(1.5 * jax.random.normal(jax.random.key(0), (len(STATES),)))


def exact(tokens):
    """The logits of the masked pixels given the others."""

    def one(row):
        possible = jnp.all((row == STATES) | (row == 2), axis=1)
        log_probs = jnp.where(possible, LOG_PROBS, -jnp.inf)
        values = [jnp.where(value == STATES.T, log_probs, -jnp.inf) for value in (0, 1)]
        found = jnp.stack([jax.nn.logsumexp(one, axis=1) for one in values], axis=1)
        return jnp.where((row == 2)[:, None], found, 0.0)

    return jax.vmap(one)(tokens)


KEY = jax.random.key(4)
WEIGHTS = jax.random.normal(jax.random.key(1), (3 * DIM, 2 * DIM))


def linear(tokens):
    logits = jax.nn.one_hot(tokens, 3).reshape(len(tokens), -1) @ WEIGHTS
    return logits.reshape(len(tokens), DIM, 2)


def rows_of(net, x):
    with row_densities() as found, numpyro.handlers.seed(rng_seed=0):
        vijax.nn.masked_diffusion("x", net, x, num_values=2)
    return found["x"]


def losses(net, x, num=4000):
    """Draws of the estimate by row, `(num, rows)`."""
    rows = rows_of(net, x)
    keys = jax.random.split(jax.random.key(2), num)
    return np.asarray(jax.jit(jax.vmap(rows.loss))(keys), float)


def test_the_bound_is_that_over_all_masks():
    x = STATES[[3, 200, 77, 91]]
    masks = STATES[1:].astype(bool)
    tokens = np.where(masks[:, None], 2, x)
    log_probs = jax.nn.log_softmax(jax.vmap(linear)(tokens))
    found = np.take_along_axis(np.asarray(log_probs), x[None, ..., None], -1)[..., 0]
    number = masks.sum(1)
    weights = np.array([1 / (m * math.comb(DIM, m)) for m in number])
    expected = -np.sum(weights[:, None] * (found * masks[:, None]).sum(2), axis=0)
    drawn = losses(linear, x)
    se = drawn.std(axis=0) / math.sqrt(len(drawn))
    assert np.all(np.abs(drawn.mean(axis=0) - expected) < 3 * se)
    assert np.all(se < 0.05 * expected)


@pytest.mark.slow
def test_the_bound_of_exact_conditionals_is_the_log_probability():
    x = STATES[[3, 200, 77, 91]]
    drawn = losses(exact, x.astype(np.uint8), 2000)
    se = drawn.std(axis=0) / math.sqrt(len(drawn))
    assert np.all(np.abs(drawn.mean(axis=0) + LOG_PROBS[np.array([3, 200, 77, 91])]) < 3 * se)


def test_rows_are_drawn_with_their_probabilities():
    rows = rows_of(exact, STATES[:1])
    drawn = jax.jit(lambda key: rows.generate(key, 2000, None, "ancestral"))(jax.random.key(3))
    codes = np.asarray(drawn) @ (2 ** np.arange(DIM)[::-1])
    shares, probs = np.bincount(codes, minlength=256) / 2000, np.exp(np.asarray(LOG_PROBS, float))
    distance = np.sum((shares - probs) ** 2)
    expected = np.sum(probs * (1 - probs)) / 2000
    assert distance < 1.8 * expected  # its relative sd is about a quarter


def test_completions_are_drawn_with_their_conditional_probabilities():
    rows = rows_of(exact, np.repeat(STATES[[180]], 2000, axis=0))
    keep = np.arange(DIM) % 2 == 0
    kept = np.broadcast_to(keep, (2000, DIM))
    drawn = np.asarray(jax.jit(lambda k: rows.generate(k, 2000, 4, "ancestral", kept))(KEY))
    assert np.all(drawn[:, keep] == STATES[180, keep])
    possible = np.all(STATES[:, keep] == STATES[180, keep], axis=1)
    probs = np.where(possible, np.exp(np.asarray(LOG_PROBS, float)), 0.0)
    shares = np.bincount(drawn @ (2 ** np.arange(DIM)[::-1]), minlength=256) / 2000
    distance = np.sum((shares - probs / probs.sum()) ** 2)
    assert distance < 2.5 / 2000  # the expected sum of squared errors is below 1 / 2000


def model(x):
    def factory(rngs):
        return Tokens(rngs)

    net = vijax.nn.network("net", factory, prior=None)
    with numpyro.plate("rows", len(x)):
        vijax.nn.masked_diffusion("x", net, x, num_values=2)


class Tokens(vijax.nn.MLP):
    """A network of tokens."""

    def __init__(self, rngs):
        super().__init__(3 * DIM, 16, 1, (), rngs=rngs)

    def __call__(self, tokens):
        inputs = jax.nn.one_hot(tokens, 3).reshape(len(tokens), -1)
        return super().__call__(inputs, jnp.zeros(len(tokens)))[:, : 2 * DIM].reshape(-1, DIM, 2)


@pytest.mark.slow
def test_a_fit_improves_the_bound():
    rng = np.random.default_rng(0)
    x = STATES[np.argmax(LOG_PROBS + rng.gumbel(size=(300, 256)), axis=1)]
    options = {"batch_size": 50, "optimizer": optax.adam(1e-2), "progress_bar": False}
    found = vijax.fit(model, x, num_steps=300, **options)
    assert found.status == "approximate"
    assert -found.elbo / 300 < DIM * math.log(2) - 0.3  # that of independent fair pixels
    assert found.bound().loc["bound"].value > -DIM * math.log(2)
    assert found.generate(num_rows=2).shape == (2, DIM)
    keep = np.arange(DIM) < 3
    assert np.all(found.generate(x[:5], keep=keep)[:, :3] == x[:5, :3])
    for wrong in (keep.astype(int), keep[:2]):
        with pytest.raises(vijax.ModelError, match="keep: expected truth values"):
            found.generate(x[:5], keep=wrong)
    with pytest.raises(vijax.ModelError, match="numbers"):
        found.bound(ode_steps=2)
