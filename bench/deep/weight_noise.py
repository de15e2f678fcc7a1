"""Variance of gradients and seconds of a step, by how weights are drawn."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

from bench import _report
from bench.deep.models import SIZES, Classifier, classifier
from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import MeanField
from vijax.model import build, split
from vijax.objectives import ELBO

NOISES = ("shared", "flipout", "local")
ROWS, _DRAWS = 128, 200


def _loss(noise: str) -> Any:
    """The loss of one draw on one batch as a function of parameters and a key, and parameters."""
    digits = load_digits()  # 8 x 8, enlarged
    images = np.repeat(np.repeat(digits.images[:ROWS] / 16, 3, axis=1), 3, axis=2)
    x = np.pad(images, ((0, 0), (2, 2), (2, 2))).reshape(ROWS, -1).astype(np.float32)
    arguments, data = split(classifier, (x, digits.target[:ROWS]), {})
    target, guide = build(classifier, arguments), MeanField(noise=noise)
    start = target.starts(jax.random.key(0), Batch(data))
    params = guide.init(jax.random.key(1), target.space, start)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        context = LossContext({}, key, target, guide, Batch(data), jnp.zeros(()))
        return ELBO()(Variables(params), context)[0]

    return loss, params


def variance(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the gradient in the means, over a layer's weights, relative to that of shared draws."""
    found = {}
    for noise in NOISES:
        loss, params = _loss(noise)
        gradient = jax.jit(jax.grad(loss))
        moments: Any = None
        for i in range(_DRAWS):
            of_loc = gradient(params, jax.random.key(i)).loc
            now = jax.tree.map(lambda g: np.stack([g, g**2]).astype(np.float64), of_loc)
            moments = now if moments is None else jax.tree.map(np.add, moments, now)
        found[noise] = {
            name: float(np.sum(m[1] / _DRAWS - (m[0] / _DRAWS) ** 2))
            for name, m in moments.items()
            if "kernel" in name
        }
    rows = [{"layer": name} for name in found["shared"]]
    for row in rows:
        for noise in NOISES:
            ratio = found[noise][row["layer"]] / found["shared"][row["layer"]]
            row[noise] = f"{ratio:.3f}"
    return rows


def steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of a loss with its gradient, and relative to two of the network itself."""
    losses = {noise: _loss(noise) for noise in NOISES}
    programs = {noise: jax.jit(jax.value_and_grad(loss)) for noise, (loss, _) in losses.items()}
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(ROWS, SIZES[0])), jnp.float32)
    graph, state = nnx.split(Classifier(nnx.Rngs(0)))

    @jax.jit
    def plain(state: Any) -> Any:
        return jax.value_and_grad(lambda s: nnx.merge(graph, s)(x).sum())(state)

    calls = {n: functools.partial(p, losses[n][1], jax.random.key(0)) for n, p in programs.items()}
    calls["the network, twice"] = lambda: (plain(state), plain(state))
    candidates = {n: lambda c=c: jax.block_until_ready(c()) for n, c in calls.items()}
    for call in candidates.values():
        call()
    seconds = _report.interleaved(candidates, 60)
    twice = seconds["the network, twice"]
    return [
        {
            "noise": name,
            "milliseconds": f"{1e3 * np.median(values):.2f}",
            "relative to two passes": str(_report.ratios(values, twice)),
        }
        for name, values in seconds.items()
    ]
