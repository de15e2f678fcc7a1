"""Which coordinate comes first: fixed permutations, for layers that treat them in turn."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.guides.flow.bijection import Bijection


@dataclasses.dataclass(frozen=True)
class Flip(Bijection):
    """Last coordinate first. Twice it is the identity; it has no parameters."""

    def init(self, key: Array, dim: int) -> tuple[()]:
        return ()

    def forward(self, params: tuple[()], x: Array) -> tuple[Array, Array]:
        return x[::-1], jnp.zeros((), x.dtype)

    def inverse(self, params: tuple[()], y: Array) -> tuple[Array, Array]:
        return self.forward(params, y)


@dataclasses.dataclass(frozen=True)
class Shuffle(Bijection):
    """A permutation fixed by a seed; it has no parameters, and is no identity.

    Args:
        seed: of the permutation.
    """

    seed: int = 0

    def init(self, key: Array, dim: int) -> tuple[()]:
        return ()

    def forward(self, params: tuple[()], x: Array) -> tuple[Array, Array]:
        return x[self._order(x.size)], jnp.zeros((), x.dtype)

    def inverse(self, params: tuple[()], y: Array) -> tuple[Array, Array]:
        return y[np.argsort(self._order(y.size))], jnp.zeros((), y.dtype)

    def _order(self, dim: int) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(dim)
