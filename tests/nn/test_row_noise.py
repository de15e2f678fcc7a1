"""Flipout and local reparameterization: each row's output is distributed as with drawn weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpyro import handlers

import vijax
from vijax.nn.structure import structure_of
from vijax.runtime.network_run import NetworkRun, network_run

DRAWS, ROWS = 4000, 3


def rnn(rngs):
    return nnx.RNN(nnx.GRUCell(2, 2, rngs=rngs), rngs=rngs)


def attention(rngs):
    return nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)


LAYERS = {
    "Linear": (lambda rngs: nnx.Linear(3, 2, rngs=rngs), (3,)),
    "LinearGeneral": (
        lambda rngs: nnx.LinearGeneral((2, 3), (2, 2), axis=(-2, -1), rngs=rngs),
        (2, 2, 3),
    ),
    "Einsum": (lambda rngs: nnx.Einsum("bta,ahd->bthd", (3, 2, 2), (2, 2), rngs=rngs), (2, 3)),
    "Conv": (lambda rngs: nnx.Conv(2, 3, (2,), rngs=rngs), (4, 2)),
    "ConvTranspose": (lambda rngs: nnx.ConvTranspose(2, 2, (2,), rngs=rngs), (3, 2)),
    "Embed": (lambda rngs: nnx.Embed(3, 2, rngs=rngs), ()),
    "RNN": (rnn, (4, 2)),
    "attention": (attention, (3, 4)),
}
SLOW = {"LinearGeneral", "ConvTranspose"}  # in attention, and like Conv
CASES = [
    pytest.param(name, "flipout", marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS
]
CASES += [("Linear", "local")]


def inputs(name, shape, rng):
    if name == "Embed":
        return jnp.arange(ROWS)
    return jnp.asarray(rng.normal(size=(ROWS, *shape)), jnp.float32)


def outputs(factory, x, noise):
    """Outputs for draws of weights, `(draws, rows, ...)`; every weight has mean and sd."""
    rng = np.random.default_rng(1)
    moments = {
        f"net/{leaf.name}": (
            jnp.asarray(rng.normal(size=leaf.shape) * 0.7, jnp.float32),
            jnp.asarray(rng.uniform(0.2, 0.6, leaf.shape), jnp.float32),
        )
        for leaf in structure_of(factory).leaves
    }

    def one(key):
        keys = jax.random.split(key, len(moments) + 1)
        values = {
            site: mean + sd * jax.random.normal(k, mean.shape)
            for k, (site, (mean, sd)) in zip(keys, moments.items(), strict=False)
        }
        run = NetworkRun(training=True, noise={noise: moments})
        with network_run(run), handlers.seed(rng_seed=keys[-1]), handlers.substitute(data=values):
            return vijax.nn.network("net", factory)(x)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), DRAWS)))


def moments_with_errors(values):
    """Mean and variance over draws, and their standard errors."""
    mean, centered = values.mean(0), values - values.mean(0)
    variance = (centered**2).mean(0)
    errors = np.sqrt(variance / len(values)), (centered**2).std(0) / np.sqrt(len(values))
    return (mean, variance), errors


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_rows_have_the_distribution_of_drawn_weights(name, noise):
    factory, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = inputs(name, shape, rng)
    found, expected = (outputs(factory, x, kind) for kind in (noise, "shared"))
    flat = [v.reshape(DRAWS, ROWS, -1) for v in (found, expected)]
    # sums over times, positions and features: signs that change along a row would be seen
    sums = rng.normal(size=(flat[0].shape[-1], 4))
    for one, two in [flat, [v @ sums for v in flat]]:
        (ours, errors), (theirs, others) = moments_with_errors(one), moments_with_errors(two)
        for a, b, e, f in zip(ours, theirs, errors, others, strict=True):
            assert np.all(np.abs(a - b) < 5 * np.hypot(e, f) + 1e-6)


def test_rows_are_uncorrelated_but_one_row_is_not_in_time():
    factory, shape = LAYERS["RNN"]
    x = jnp.broadcast_to(inputs("RNN", shape, np.random.default_rng(0))[:1], (ROWS, *shape))
    found, shared = (outputs(factory, x, kind)[..., -1] for kind in ("flipout", "shared"))
    between = np.corrcoef(found[:, 0, 0], found[:, 1, 0])[0, 1]
    in_time, expected = (np.corrcoef(v[:, 0, 0], v[:, 0, 1])[0, 1] for v in (found, shared))
    assert np.corrcoef(shared[:, 0, 0], shared[:, 1, 0])[0, 1] > 0.99
    assert abs(in_time - expected) < 5 * np.sqrt(2 / DRAWS)
    assert between < expected - 0.2


def test_local_refuses_weights_that_meet_a_row_twice():
    for name in ("Conv", "RNN", "attention"):
        factory, shape = LAYERS[name]
        x = inputs(name, shape, np.random.default_rng(0))
        with pytest.raises(vijax.ModelError, match=r"net.*flipout"):
            outputs(factory, x, "local")
