"""Time of a step of the autoencoder over the same mathematics by hand, after compilation.

By hand means one jitted `lax.scan` over indices of rows, the gradient of the bound with plain
products of matrices, and `optax.adam`.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import vijax
from bench import _report
from bench.generation.images import BATCH, HIDDEN, PIXELS, UNITS, autoencoder, binarized, encoder
from vijax.engine.run import Budget
from vijax.guides import Amortized

_STEPS, _REPEATS, _ADAM = 100, 9, optax.adam(1e-3)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def step(options: argparse.Namespace) -> list[dict[str, Any]]:
    images = binarized(options.folder, options.images).train
    candidates = {"by hand": _by_hand(images), "vijax": _vijax(images)}
    for call in candidates.values():
        call()  # compiles
    seconds = _report.interleaved(candidates, _REPEATS)
    return [
        {
            "VAE": name,
            "milliseconds per step": str(_report.median_range(1e3 / _STEPS * np.asarray(one))),
            "relative to by hand": str(_report.ratios(one, seconds["by hand"])),
        }
        for name, one in seconds.items()
    ]


def _vijax(images: np.ndarray) -> Callable[[], Any]:
    how = {"batch_size": BATCH, "num_steps": 1, "progress_bar": False, "optimizer": _ADAM}
    fitted = vijax.fit(autoencoder, images, guide=Amortized(encoder, "x"), **how)._result
    engine, run = fitted.engine, fitted.run

    def steps() -> Any:
        nonlocal run
        run = engine.advance(run, Budget(run.step + _STEPS))
        return jax.block_until_ready(run.loop)

    return steps


def _by_hand(images: np.ndarray) -> Callable[[], Any]:
    rng = np.random.default_rng(0)

    def network(*sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = itertools.pairwise(sizes)
        return [(rng.normal(0, a**-0.5, (a, b)), np.zeros(b)) for a, b in pairs]

    inner = HIDDEN, HIDDEN
    layers = network(PIXELS, *inner, 2 * UNITS), network(UNITS, *inner, PIXELS)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), layers)

    @jax.jit
    def steps(carry: Any, key: jax.Array, rows: jax.Array, images: jax.Array) -> Any:
        def one(carry: Any, now: Any) -> Any:
            (params, state), (number, index) = carry, now
            x = jnp.take(images, index, axis=0, mode="clip")
            value, gradient = jax.value_and_grad(_loss)(params, jax.random.fold_in(key, number), x)
            update, state = _ADAM.update(gradient, state)
            return (optax.apply_updates(params, update), state), value

        return lax.scan(one, carry, (jnp.arange(len(rows)), rows))

    carry = start, _ADAM.init(start)
    rows = jnp.asarray(rng.permutation(len(images))[: _STEPS * BATCH].reshape(_STEPS, BATCH))
    data = jnp.asarray(images)
    return lambda: jax.block_until_ready(steps(carry, jax.random.key(0), rows, data))


def _loss(params: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    """The mean negative bound, with the path gradient of `log q`."""
    encoder_params, decoder_params = params
    loc, log_scale = jnp.split(_apply(encoder_params, x), 2, axis=1)
    z = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
    fixed_loc, fixed_scale = lax.stop_gradient((loc, log_scale))
    noise = (z - fixed_loc) * jnp.exp(-fixed_scale)
    log_q = jnp.sum(-0.5 * noise**2 - fixed_scale - _HALF_LOG_2PI)
    logits = _apply(decoder_params, z)
    log_p = jnp.sum(-0.5 * z**2 - _HALF_LOG_2PI)
    log_p += jnp.sum(x * logits - jax.nn.softplus(logits))
    return (log_q - log_p) / len(x)


def _apply(layers: Any, x: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias
