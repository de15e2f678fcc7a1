"""Gradients through 200 Bernoulli variables: a sigmoid belief network on binarized MNIST.

Variance of each estimator's gradient at one place, and the ELBO of held-out images after equal
steps and after equal seconds. `--data` is an `.npz` file with the images as packed bits, 98 bytes
each, under `train` and `test` (Larochelle's fixed binarization).
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from bench import _report
from vijax.objectives import discrete

_HIDDEN, _PIXELS, _BATCH = 200, 784, 50
_PIECE = 100  # steps in one program
_RATE = 1e-3
_DRAWS = 1000  # gradients behind a variance

ESTIMATORS = {
    "local expectation": discrete.LocalExpectation(),
    "DisARM": discrete.DisARM(),
    "REBAR": discrete.Rebar(),
    "leave-one-out, 2 draws": discrete.LeaveOneOut(2),
    "leave-one-out, 4 draws": discrete.LeaveOneOut(4),
    "Gumbel-softmax (biased)": discrete.GumbelSoftmax(),
    "straight-through (biased)": discrete.StraightThrough(),
}


class Network(NamedTuple):
    """One layer each way, and the logits of the prior."""

    prior: Array
    decoder: Array
    pixels: Array
    encoder: Array
    units: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    packed = np.load(options.data)
    train, test = (
        np.unpackbits(packed[part], axis=1)[:, :_PIXELS].astype(np.float32)
        for part in ("train", "test")
    )
    trained = {
        name: _train(estimator, train, test[:1000], options.steps)
        for name, estimator in ESTIMATORS.items()
        if name != "local expectation"  # 201 evaluations a gradient
    }
    reference = trained["DisARM"].pop("network")
    variances = {name: _variance(one, reference, test[0]) for name, one in ESTIMATORS.items()}
    common = min(one["curve"][-1][0] for one in trained.values())
    rows: dict[str, dict[str, Any]] = {}
    for name in ESTIMATORS:
        rows[name] = {"variance": variances[name]}
        if name in trained:
            curve = trained[name]["curve"]
            in_time = [elbo for seconds, elbo in curve if seconds <= common]
            rows[name] |= {
                "elbo_after_steps": curve[-1][1],
                "elbo_after_seconds": in_time[-1],
                "milliseconds_a_step": 1e3 * curve[-1][0] / options.steps,
            }
    columns = ("variance", "elbo_after_steps", "elbo_after_seconds", "milliseconds_a_step")
    _report.table(
        ("", "variance", "ELBO, equal steps", f"ELBO, {common:.0f} s", "ms a step"),
        [
            (name, *(f"{row[column]:.4g}" if column in row else "-" for column in columns))
            for name, row in rows.items()
        ],
    )
    _report.save("gradients", {"steps": options.steps, "seconds": common, "estimators": rows})


def _log_joint(network: Network, x: Array, h: Array) -> Array:
    logits = network.decoder @ h + network.pixels
    likelihood = jnp.sum(x * logits - jax.nn.softplus(logits))
    return likelihood + jnp.sum(h * network.prior - jax.nn.softplus(network.prior))


def _elbo(estimator: Any, network: Network, key: Array, x: Array) -> Array:
    logits = network.encoder @ (x - 0.5) + network.units
    p = jax.nn.sigmoid(logits)
    entropy = jnp.sum(jax.nn.softplus(logits) - p * logits)
    return estimator(key, logits, lambda h: _log_joint(network, x, h)) + entropy


def _train(estimator: Any, train: np.ndarray, test: np.ndarray, steps: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    network = Network(
        jnp.zeros(_HIDDEN),
        0.05 * jax.random.normal(keys[0], (_PIXELS, _HIDDEN)),
        jnp.asarray(np.log((train.mean(0) + 1e-3) / (1 - train.mean(0) + 1e-3))),
        0.05 * jax.random.normal(keys[1], (_HIDDEN, _PIXELS)),
        jnp.zeros(_HIDDEN),
    )
    optimizer = optax.adam(_RATE)

    def loss(network: Network, key: Array, batch: Array) -> Array:
        keys = jax.random.split(key, len(batch))
        return -jnp.mean(jax.vmap(lambda k, x: _elbo(estimator, network, k, x))(keys, batch))

    @jax.jit
    def piece(state: Any, first: int, images: Array) -> Any:
        def step(state: Any, t: Array) -> tuple[Any, None]:
            network, memory = state
            key = jax.random.fold_in(jax.random.key(1), t)
            rows = jax.random.randint(key, (_BATCH,), 0, len(images))
            slope = jax.grad(loss)(network, key, images[rows])
            update, memory = optimizer.update(slope, memory)
            return (optax.apply_updates(network, update), memory), None

        return lax.scan(step, state, first + jnp.arange(_PIECE))[0]

    @jax.jit
    def held_out(network: Network, images: Array) -> Array:
        return -loss(network, jax.random.key(2), images)

    images, state = jnp.asarray(train), (network, optimizer.init(network))
    compiled = piece.lower(state, 0, images).compile()
    seconds, curve = 0.0, []
    for first in range(0, steps, _PIECE):
        began = time.perf_counter()
        state = jax.block_until_ready(compiled(state, first, images))
        seconds += time.perf_counter() - began
        curve.append((seconds, float(held_out(state[0], test))))
    return {"curve": curve, "network": state[0]}


def _variance(estimator: Any, network: Network, x: np.ndarray) -> float:
    """Sum over the 200 logits of the variance of the gradient of one image's ELBO."""
    logits = network.encoder @ (x - 0.5) + network.units

    @jax.jit
    def slopes(keys: Array) -> Array:
        def one(key: Array) -> Array:
            return jax.grad(lambda at: estimator(key, at, lambda h: _log_joint(network, x, h)))(
                logits
            )

        return lax.map(one, keys)

    found = np.asarray(slopes(jax.random.split(jax.random.key(3), _DRAWS)), float)
    return float(found.var(0).sum())


if __name__ == "__main__":
    main()
