"""Bayes by Backprop on MNIST: test error, and how many weights it takes."""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import vijax
from bench.deep.data import mnist
from bench.deep.models import Classifier
from vijax.guides import MeanField

_BATCH, _STEPS, _DRAWS = 250, 3600, 30
_PRUNED = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98)


def classifier(x: jax.Array, y: jax.Array | None = None) -> None:
    """The scale of the normal prior of each layer is learned."""
    scale = numpyro.sample("scale", dist.LogNormal(-2.0, 1.0).expand([3]).to_event(1))
    prior = {f"layers/{i}/*": dist.Normal(0, scale[i]) for i in range(3)}
    net = vijax.nn.network("net", Classifier, prior=prior)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Categorical(logits=net(x)), obs=y)


def bayes_by_backprop(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Error of a 784-400-400-10 network with the weights of lowest `|mean| / sd` set to zero.

    Source: Weight Uncertainty in Neural Networks, Blundell et al., 2015, whose best error is 1.3 %,
    with a mixture of two normals as the prior, after 600 passes over the data. With variances of
    one over the number of inputs instead of learned ones the error is 4.8 % after 15 passes.
    """
    images = mnist(options.folder)
    x, x_test = (each.reshape(len(each), -1) for each in (images.x, images.x_test))
    decay = optax.cosine_decay_schedule(1.0, _STEPS)
    start = time.perf_counter()
    posterior = vijax.fit(
        classifier, x, images.y, guide=MeanField(noise="local"), batch_size=_BATCH,
        num_steps=_STEPS, optimizer=optax.adam(lambda step: 2e-3 * decay(step)), progress_bar=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    score = posterior.score(x_test, y=images.y_test, num_draws=_DRAWS)
    print(f"{_STEPS} steps of {_BATCH}, {seconds:.0f} s, {_DRAWS} draws:\n{score}", flush=True)
    mean, log_sd = posterior.params
    weights = [name for name in mean if name != "scale"]
    ratio = {name: np.abs(mean[name]) / np.exp(log_sd[name]) for name in weights}
    every = np.concatenate([each.ravel() for each in ratio.values()])
    rows = []
    for share in _PRUNED:
        limit = np.quantile(every, share)
        kept = {name: np.where(ratio[name] >= limit, mean[name], 0.0) for name in weights}
        wrong = np.mean(_digit(kept, x_test) != images.y_test)
        rows.append({"weights at zero": f"{share:.0%}", "error at the means": f"{wrong:.2%}"})
    error = 1 - score.loc["accuracy", "value"]
    return [{"weights at zero": "none, draws", "error at the means": f"{error:.2%}"}, *rows]


def _digit(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The most probable digit of each row."""
    for i in range(3):
        x = x @ weights[f"net/layers/{i}/kernel"] + weights[f"net/layers/{i}/bias"]
        x = np.maximum(x, 0.0) if i < 2 else x
    return np.argmax(x, axis=1)
