"""Binarized digits, and the autoencoder of Burda, Grosse and Salakhutdinov (2016)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.contrib.module import nnx_module

PIXELS, HIDDEN, UNITS, BATCH = 784, 200, 50, 100


class Digits(NamedTuple):
    """Images of 0 and 1, `(rows, 784)`, to fit and to test."""

    train: np.ndarray
    test: np.ndarray


def binarized(folder: Path, test_rows: int) -> Digits:
    """Larochelle's fixed binarization of MNIST, 50,000 images, and images to test, every n-th.

    The test images are not in random order: the first are harder.
    """
    with np.load(folder / "mnist_static_binarized" / "mnist_static_binarized.npz") as file:
        train, test = (_unpacked(file[part]) for part in ("train", "test"))
    return Digits(train, test[:: max(1, len(test) // test_rows)])


def _unpacked(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=1)[:, :PIXELS].astype(np.float32)


class Network(nnx.Module):
    """Linear layers with tanh between them."""

    def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs) -> None:
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        return self.layers[-1](x)


def encoder(rngs: nnx.Rngs) -> Any:
    """From images to locations and log scales."""
    return Network((PIXELS, HIDDEN, HIDDEN, 2 * UNITS), rngs)


def autoencoder(x: jax.Array) -> None:
    sizes = (UNITS, HIDDEN, HIDDEN, PIXELS)
    decoder = nnx_module("decoder", Network(sizes, nnx.Rngs(0)))
    with numpyro.plate("images", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([UNITS]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)
