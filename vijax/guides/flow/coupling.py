"""Couplings: some coordinates stay, and decide how the others are mapped."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from vijax.guides.flow import conditioner
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.conditioner import Network
from vijax.guides.flow.elementwise import Affine, Elementwise


@dataclasses.dataclass(frozen=True)
class Coupling(Bijection):
    """`y = (a, f(b; network(a)))` where `x = (a, b)`, `a` the first `dim // 2` coordinates.

    The inverse costs as much as the map. Put a permutation between two of them. In one dimension
    `a` is empty, and `f` has parameters of its own. Sources: Density Estimation Using Real NVP,
    Dinh, Sohl-Dickstein, Bengio, 2017; with splines, Neural Spline Flows, Durkan et al., 2019.

    Args:
        elementwise: the family of `f`.
        hidden: sizes of the network's hidden layers.
    """

    elementwise: Elementwise = Affine()
    hidden: tuple[int, ...] = (32,)

    def init(self, key: Array, dim: int) -> Network:
        size, kept = self.elementwise.size, dim // 2
        hidden = self.hidden if kept else ()  # nothing to look at: only biases
        return conditioner.init(key, (kept, *hidden, (dim - kept) * size))

    def forward(self, params: Network, x: Array) -> tuple[Array, Array]:
        a, b = jnp.split(x, (x.size // 2,))
        y, log_slopes = jax.vmap(self.elementwise.forward)(self._raw(params, a, b), b)
        return jnp.concatenate([a, y]), jnp.sum(log_slopes)

    def inverse(self, params: Network, y: Array) -> tuple[Array, Array]:
        a, b = jnp.split(y, (y.size // 2,))
        x, log_slopes = jax.vmap(self.elementwise.inverse)(self._raw(params, a, b), b)
        return jnp.concatenate([a, x]), jnp.sum(log_slopes)

    def _raw(self, params: Network, a: Array, b: Array) -> Array:
        return conditioner.apply(params, a).reshape(b.size, self.elementwise.size)


@dataclasses.dataclass(frozen=True)
class Marginal(Bijection):
    """An elementwise map of every coordinate, with parameters of its own.

    Args:
        elementwise: the family.
    """

    elementwise: Elementwise

    def init(self, key: Array, dim: int) -> Array:
        return jnp.zeros((dim, self.elementwise.size))

    def forward(self, params: Array, x: Array) -> tuple[Array, Array]:
        y, log_slopes = jax.vmap(self.elementwise.forward)(params, x)
        return y, jnp.sum(log_slopes)

    def inverse(self, params: Array, y: Array) -> tuple[Array, Array]:
        x, log_slopes = jax.vmap(self.elementwise.inverse)(params, y)
        return x, jnp.sum(log_slopes)
