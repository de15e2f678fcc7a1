"""Fixed permutations of the coordinates, for use between layers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.guides.flow.bijection import Bijection


@dataclasses.dataclass(frozen=True)
class Flip(Bijection):
    """Reversal of the order of the coordinates, an involution without parameters."""

    def init(self, key: Array, dim: int) -> tuple[()]:
        return ()

    def forward(self, params: tuple[()], x: Array) -> tuple[Array, Array]:
        return x[::-1], jnp.zeros((), x.dtype)

    def inverse(self, params: tuple[()], y: Array) -> tuple[Array, Array]:
        return self.forward(params, y)


@dataclasses.dataclass(frozen=True)
class Shuffle(Bijection):
    """A random permutation, fixed by a seed; no parameters, and not the identity at the start.

    Args:
        seed: seed of the permutation.
    """

    seed: int = 0

    def init(self, key: Array, dim: int) -> tuple[()]:
        return ()

    def forward(self, params: tuple[()], x: Array) -> tuple[Array, Array]:
        return x[self._permutation(x.size)], jnp.zeros((), x.dtype)

    def inverse(self, params: tuple[()], y: Array) -> tuple[Array, Array]:
        return y[np.argsort(self._permutation(y.size))], jnp.zeros((), y.dtype)

    def _permutation(self, dim: int) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(dim)
