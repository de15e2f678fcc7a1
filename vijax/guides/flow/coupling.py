"""Coupling layers, as in RealNVP and neural spline flows."""

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
    """Coupling layer: `y = (a, f(b; network(a)))`, `a` the first `dim // 2` coordinates of `x`.

    The inverse costs as much as the forward map. Alternate couplings with permutations. In one
    dimension `a` is empty and the parameters of `f` are constants. Sources: Density Estimation
    Using Real NVP, Dinh, Sohl-Dickstein, Bengio, 2017; with splines, Neural Spline Flows, Durkan et
    al., 2019.

    Args:
        elementwise: the elementwise map `f`.
        hidden: sizes of the network's hidden layers.
    """

    elementwise: Elementwise = Affine()
    hidden: tuple[int, ...] = (32,)

    def init(self, key: Array, dim: int) -> Network:
        size, num_inputs = self.elementwise.size, dim // 2
        hidden = self.hidden if num_inputs else ()  # no inputs: only biases
        return conditioner.init(key, (num_inputs, *hidden, (dim - num_inputs) * size))

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
