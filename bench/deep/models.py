"""Networks of the benchmarks, and their models."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx

import vijax

SIZES = (784, 400, 400, 10)


class Classifier(nnx.Module):
    """Dense layers with rectifiers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        pairs = itertools.pairwise(SIZES)
        self.layers = nnx.List([nnx.Linear(*sizes, rngs=rngs) for sizes in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Regressor(nnx.Module):
    """One hidden layer of 50 units."""

    def __init__(self, inputs: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(inputs, 50, rngs=rngs)
        self.out = nnx.Linear(50, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))[:, 0]


def classifier(x: jax.Array, y: jax.Array | None = None) -> None:
    net = vijax.nn.network("net", Classifier)
    with numpyro.plate("rows", 60_000, subsample_size=x.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=net(x)), obs=y)


def regression(factory: Any, x: jax.Array, y: jax.Array | None = None) -> None:
    """Scales of the priors of both layers are learned."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
    prior = {"hidden/*": dist.Normal(0, scale[0]), "out/*": dist.Normal(0, scale[1] / 50**0.5)}
    net = vijax.nn.network("net", factory, prior=prior)
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(net(x), noise), obs=y)


class LeNet(nnx.Module):
    """LeNet-5 with rectifiers and maximum pooling: 61,706 weights."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.convolutions = nnx.List([Convolution(1, 6, rngs), Convolution(6, 16, rngs)])
        sizes = itertools.pairwise((400, 120, 84, 10))
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in sizes])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None]
        for convolution in self.convolutions:
            x = _pooled(nnx.relu(convolution(x)))
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Convolution(nnx.Module):
    """Convolution with 5 by 5 kernels, as a product of five rows with a banded matrix.

    XLA's own takes five times as long in loops on processors.
    """

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(25 * inputs, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, height, width, inputs = x.shape
        kernel = self.linear.kernel[...].reshape(5, 5, inputs, -1)
        shifts = [jnp.eye(width, width - 4, k=-shift) for shift in range(5)]
        banded = sum(
            jnp.einsum("ab,ijk->iajbk", shift, kernel[:, column])
            for column, shift in enumerate(shifts)
        )
        lines = [x[:, i : i + height - 4].reshape(rows, height - 4, -1) for i in range(5)]
        found = jnp.concatenate(lines, axis=-1) @ banded.reshape(5 * width * inputs, -1)
        return found.reshape(rows, height - 4, width - 4, -1) + self.linear.bias[...]


def _pooled(x: jax.Array) -> jax.Array:
    """The maximum of every two by two pixels."""
    rows, height, width, channels = x.shape
    return x.reshape(rows, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def lenet(x: jax.Array, y: jax.Array | None = None) -> None:
    _digit_of(vijax.nn.network("net", LeNet), x, y)


def wide_lenet(x: jax.Array, y: jax.Array | None = None) -> None:
    """With a standard normal prior, under which IVON predicts best on few images."""
    _digit_of(vijax.nn.network("net", LeNet, prior=dist.Normal(0.0, 1.0)), x, y)


def _digit_of(net: Any, x: jax.Array, y: jax.Array | None) -> None:
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=net(x)), obs=y)
