"""Networks of the benchmarks, and their models."""

from __future__ import annotations

import itertools
from typing import Any

import jax
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
