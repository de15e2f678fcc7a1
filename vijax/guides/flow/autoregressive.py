"""Autoregressive layers, as in inverse and masked autoregressive flows."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.guides.flow import conditioner
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.conditioner import Network
from vijax.guides.flow.elementwise import Affine, Elementwise


@dataclasses.dataclass(frozen=True)
class Autoregressive(Bijection):
    """Autoregressive layer: `y_i = f(x_i; network_i(x_1, ..., x_(i-1)))`, one masked network.

    `forward` takes one pass of the network, `inverse` takes `dim`. This is the inverse
    autoregressive flow (IAF), with fast draws; `Invert` gives the masked autoregressive flow (MAF),
    with a fast density and slow draws. Masked network weights are ignored. Sources: Improved
    Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016; Masked
    Autoregressive Flow for Density Estimation, Papamakarios, Pavlakou, Murray, 2017.

    Args:
        elementwise: the elementwise map `f`.
        hidden: sizes of the network's hidden layers.
    """

    cheap_inverse: ClassVar[bool] = False
    elementwise: Elementwise = Affine()
    hidden: tuple[int, ...] = (32,)

    def init(self, key: Array, dim: int) -> Network:
        return conditioner.init(key, (dim, *self._hidden(dim), dim * self.elementwise.size))

    def forward(self, params: Network, x: Array) -> tuple[Array, Array]:
        y, log_slopes = jax.vmap(self.elementwise.forward)(self._raw(params, x), x)
        return y, jnp.sum(log_slopes)

    def inverse(self, params: Network, y: Array) -> tuple[Array, Array]:
        def sweep(_: int, x: Array) -> Array:  # the i-th sweep solves for coordinate i
            return jax.vmap(self.elementwise.inverse)(self._raw(params, x), y)[0]

        x = lax.fori_loop(0, y.size - 1, sweep, jnp.zeros_like(y))
        x, log_slopes = jax.vmap(self.elementwise.inverse)(self._raw(params, x), y)
        return x, jnp.sum(log_slopes)

    def _hidden(self, dim: int) -> tuple[int, ...]:
        return self.hidden if dim > 1 else ()  # no inputs: only biases

    def _raw(self, params: Network, x: Array) -> Array:
        size = self.elementwise.size
        masks = conditioner.autoregressive_masks(x.size, self._hidden(x.size), size)
        return conditioner.apply(params, x, masks).reshape(x.size, size)
