"""Networks that predict noise: of points, and of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

_FREQUENCIES = 16  # of the time


def fourier_features(z: Array, powers: Sequence[int]) -> Array:
    """Sines and cosines of `2 pi 2^p z` beside `z`, `(..., features * (1 + 2 len(powers)))`.

    They show a network the fine details that decide the likelihood. Powers 0 to 7 are for points,
    6 and 7 for 8-bit images: that of `p = k - 1` has the period at which `2^k` levels are. Source:
    Variational Diffusion Models, Kingma, Salimans, Poole and Ho, 2021.

    Args:
        z: `(..., features)`.
        powers: `p`.
    """
    angles = [2 * jnp.pi * 2.0**power * z for power in powers]
    return jnp.concatenate([z, *(f(a) for a in angles for f in (jnp.sin, jnp.cos))], axis=-1)


def time_features(time: Array) -> Array:
    """Sines and cosines of times in [0, 1], `(rows, 32)`."""
    angles = time[:, None] * 1000.0 ** jnp.linspace(0.0, 1.0, _FREQUENCIES)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class MLP(nnx.Module):
    """Predicts the noise in points by dense layers with residual connections.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> MLP(2, rngs=nnx.Rngs(0))(jnp.ones((5, 2)), jnp.ones(5)).shape
    (5, 2)

    Args:
        size: elements of a row, which are `(size,)`.
        width: units of a layer.
        depth: number of layers.
        powers: see `fourier_features`.
        rngs: of the initial weights.
    """

    def __init__(
        self,
        size: int,
        width: int = 128,
        depth: int = 3,
        powers: Sequence[int] = range(6),
        *,
        rngs: Any,
    ) -> None:
        self.powers = tuple(powers)
        inputs = size * (1 + 2 * len(self.powers)) + 2 * _FREQUENCIES
        self.first = nnx.Linear(inputs, width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(depth)])
        self.last = _zero_linear(width, size, rngs)

    def __call__(self, z: Array, time: Array) -> Array:
        """The noise in `z`, `(rows, size)`, at times `(rows,)`."""
        inputs = (fourier_features(z, self.powers), time_features(time))
        h = self.first(jnp.concatenate(inputs, axis=1))
        for layer in self.hidden:
            h += layer(jax.nn.silu(h))
        return z + self.last(jax.nn.silu(h))


class UNet(nnx.Module):
    """Predicts the noise in images by convolutions at falling and rising resolution.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> def noise(z, time):
    ...     return UNet(1, width=8, rngs=nnx.Rngs(0))(z, time)
    >>> jax.eval_shape(noise, jnp.ones((2, 28, 28, 1)), jnp.ones(2)).shape
    (2, 28, 28, 1)

    Args:
        channels: of images `(height, width, channels)`, whose sides `2^(levels - 1)` divides.
        width: channels of the first level, doubled at every other one; a multiple of 8.
        levels: number of resolutions.
        powers: see `fourier_features`.
        rngs: of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        levels: int = 3,
        powers: Sequence[int] = (6, 7),
        *,
        rngs: Any,
    ) -> None:
        self.powers = tuple(powers)
        widths = [width * 2**level for level in range(levels)]
        inputs = channels * (1 + 2 * len(self.powers))
        self.first = nnx.Conv(inputs, width, (3, 3), rngs=rngs)
        pairs = list(itertools.pairwise(widths))
        self.down = nnx.List([_Block(a, a, rngs) for a in widths])
        self.shrink = nnx.List([nnx.Conv(a, b, (2, 2), 2, rngs=rngs) for a, b in pairs])
        self.grow = nnx.List([nnx.ConvTranspose(b, a, (2, 2), 2, rngs=rngs) for a, b in pairs])
        self.up = nnx.List([_Block(2 * a, a, rngs) for a, _ in pairs])
        self.last = nnx.Conv(
            width, channels, (3, 3), kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )

    def __call__(self, z: Array, time: Array) -> Array:
        """The noise in `z`, `(rows, height, width, channels)`, at times `(rows,)`."""
        features = time_features(time)
        h, skipped = self.first(fourier_features(z, self.powers)), []
        for level, block in enumerate(self.down):
            h = block(h, features)
            if level < len(self.shrink):
                skipped.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = jnp.concatenate([self.grow[level](h), skipped[level]], axis=-1)
            h = self.up[level](h, features)
        return z + self.last(jax.nn.silu(h))


class _Block(nnx.Module):
    """Two convolutions with a residual connection and the time."""

    def __init__(self, inputs: int, outputs: int, rngs: Any) -> None:
        self.norms = nnx.List(
            [nnx.GroupNorm(inputs, 8, rngs=rngs), nnx.GroupNorm(outputs, 8, rngs=rngs)]
        )
        self.convs = nnx.List(
            [
                nnx.Conv(inputs, outputs, (3, 3), rngs=rngs),
                nnx.Conv(outputs, outputs, (3, 3), rngs=rngs),
            ]
        )
        self.time = nnx.Linear(2 * _FREQUENCIES, outputs, rngs=rngs)
        self.skip = nnx.Conv(inputs, outputs, (1, 1), rngs=rngs) if inputs != outputs else None

    def __call__(self, h: Array, features: Array) -> Array:
        before = h if self.skip is None else self.skip(h)
        h = self.convs[0](jax.nn.silu(self.norms[0](h))) + self.time(features)[:, None, None]
        return before + self.convs[1](jax.nn.silu(self.norms[1](h)))


def _zero_linear(inputs: int, outputs: int, rngs: Any) -> nnx.Linear:
    """A layer that starts at zero, so that the first prediction is the input."""
    zeros = nnx.initializers.zeros_init()
    return nnx.Linear(inputs, outputs, kernel_init=zeros, rngs=rngs)
