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

import vijax

PIXELS, HIDDEN, UNITS, FEATURES, BATCH = 784, 200, 50, 64, 100


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


class Resampled(vijax.data.RowSource):
    """Pixels drawn from their grey values, `(rows, 784)`, for every batch anew.

    The seed of a batch is its rows: passes differ, and a resumed fit has the same pixels.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, intensities: np.ndarray) -> None:
        self.intensities, self.shape = intensities, intensities.shape

    def take(self, rows: np.ndarray) -> np.ndarray:
        values = self.intensities[rows]
        return (np.random.default_rng(rows).random(values.shape) < values).astype(self.dtype)


def resampled(folder: Path, rows: int) -> Resampled:
    """The first of the images with grey values from 0 to 1."""
    with np.load(folder / "mnist" / "mnist.npz") as file:
        grey = file["x_train"][:rows]
    return Resampled((grey.reshape(len(grey), PIXELS) / 255).astype(np.float32))


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


def featured_encoder(rngs: nnx.Rngs) -> Any:
    """From images to locations, log scales and features."""
    return Network((PIXELS, HIDDEN, HIDDEN, 2 * UNITS + FEATURES), rngs)


def two_levels(x: jax.Array) -> None:
    """At the start the bottom level has nearly the prior of one level, else it collapses early."""
    prior = nnx_module("prior", Network((UNITS, HIDDEN, 2 * UNITS), nnx.Rngs(1)))
    decoder = nnx_module("decoder", Network((UNITS, HIDDEN, HIDDEN, PIXELS), nnx.Rngs(0)))
    with numpyro.plate("images", x.shape[0]):
        top = numpyro.sample("top", dist.Normal(0.0, 1.0).expand([UNITS]).to_event(1))
        loc, log_scale = jnp.split(0.1 * prior(top), 2, axis=-1)
        bottom = numpyro.sample("bottom", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decoder(bottom)).to_event(1), obs=x)


class Features(nnx.Module):
    """What both levels see of the images."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.network = Network((PIXELS, HIDDEN, HIDDEN), rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.network(x))


class Top(nnx.Module):
    """From features to locations and log scales of the top level."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(HIDDEN, 2 * UNITS, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.layer(features)


class Bottom(nnx.Module):
    """From features and the top level to locations and log scales of the bottom level."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(HIDDEN + UNITS, 2 * UNITS, rngs=rngs)

    def __call__(self, features: jax.Array, top: jax.Array) -> jax.Array:
        return self.layer(jnp.concatenate([features, top], axis=1))
