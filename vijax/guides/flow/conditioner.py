"""Conditioners: small networks whose outputs are the parameters of an elementwise map.

They are pure functions of a tuple of layers, which trace in milliseconds and work with `scan`. The
last layer starts at zero, where every elementwise map is the identity.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.guides.flow.bijection import default_float


class Dense(NamedTuple):
    """A dense layer: `weight` `(out, in)` and `bias` `(out,)`."""

    weight: Array
    bias: Array


Network = tuple[Dense, ...]


def init(key: Array, sizes: tuple[int, ...]) -> Network:
    """Random parameters for layers of the given sizes, input first; the last layer is zero."""
    layers = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = jnp.zeros((fan_out, fan_in))
        if i < len(sizes) - 2 and fan_in > 0:
            noise = jax.random.normal(jax.random.fold_in(key, i), (fan_out, fan_in), weight.dtype)
            weight = noise / math.sqrt(fan_in)
        layers.append(Dense(weight, jnp.zeros(fan_out, default_float())))
    return tuple(layers)


def apply(network: Network, x: Array, masks: tuple[np.ndarray, ...] | None = None) -> Array:
    """The outputs at `x`; weights are multiplied by the masks."""
    for i, layer in enumerate(network):
        weight = layer.weight if masks is None else layer.weight * masks[i].astype(x.dtype)
        x = weight @ x + layer.bias
        if i < len(network) - 1:
            x = jax.nn.silu(x)
    return x


def autoregressive_masks(dim: int, hidden: tuple[int, ...], size: int) -> tuple[np.ndarray, ...]:
    """Masks by which outputs `i size, ..., (i + 1) size - 1` depend on inputs `0, ..., i - 1` only.

    Source: MADE: Masked Autoencoder for Distribution Estimation, Germain, Gregor, Murray,
    Larochelle, 2015.
    """
    degrees = [np.arange(1, dim + 1)]
    degrees += [np.arange(width) % max(dim - 1, 1) + 1 for width in hidden]
    masks = [
        (below[None, :] <= above[:, None]).astype(np.float32)
        for below, above in itertools.pairwise(degrees)
    ]
    last = np.repeat(np.arange(1, dim + 1), size)
    masks.append((degrees[-1][None, :] < last[:, None]).astype(np.float32))
    return tuple(masks)
