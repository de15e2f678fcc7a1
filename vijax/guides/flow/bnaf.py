"""Block neural autoregressive flows: a monotone network for every coordinate, all in one."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.guides.flow import root
from vijax.guides.flow.bijection import Bijection, default_float, polish
from vijax.runtime.errors import GuideError, mismatch

_GATE = 5.0  # logit of the share of the identity at the start: 0.993


class BNAFParams(NamedTuple):
    """Two layers of `width` units per coordinate, and a gate `(dim,)`.

    `inner` `(dim, width, dim)` and `outer` `(dim, dim, width)` are the weights of what comes
    before a coordinate; `log_inner` `(dim, width)`, `log_outer` `(dim, width)` those of its own,
    which are positive; `inner_bias` `(dim, width)`, `outer_bias` `(dim,)`.
    """

    inner: Array
    log_inner: Array
    inner_bias: Array
    outer: Array
    log_outer: Array
    outer_bias: Array
    gate: Array


@dataclasses.dataclass(frozen=True)
class BlockNeural(Bijection):
    """`y = g x + (1 - g) f(x)`, `f_i` increasing in `x_i` and any function of those before it.

    One hidden layer of tanh, whose weights from a coordinate to itself are exponentials, so that
    the slope is a sum of positive numbers and never cancels. `g = sigmoid(gate)` starts at 0.993.
    Drawing is one pass, the inverse bisects coordinate by coordinate. Weights from later
    coordinates are never read. Source: Block Neural Autoregressive Flow, De Cao, Titov, Aziz,
    2019.

    Args:
        width: hidden units per coordinate.

    Raises:
        GuideError: `width` is less than one.
    """

    cheap_inverse: ClassVar[bool] = False
    width: int = 8

    def __post_init__(self) -> None:
        if self.width < 1:
            raise GuideError(mismatch("width", "at least 1", self.width))

    def init(self, key: Array, dim: int) -> BNAFParams:
        width, dtype = self.width, default_float()
        inner, outer, own, bias = jax.random.split(key, 4)
        return BNAFParams(
            jax.random.normal(inner, (dim, width, dim), dtype) / math.sqrt(dim),
            0.3 * jax.random.normal(own, (dim, width), dtype),
            jax.random.normal(bias, (dim, width), dtype),
            jax.random.normal(outer, (dim, dim, width), dtype) / math.sqrt(dim * width),
            jnp.full((dim, width), math.log(2 / width), dtype),
            jnp.zeros(dim),
            jnp.full(dim, _GATE, dtype),
        )

    def forward(self, params: BNAFParams, x: Array) -> tuple[Array, Array]:
        before = np.tril(np.ones((x.size, x.size), np.float32), -1).astype(x.dtype)
        own_in, own_out = jnp.exp(params.log_inner), jnp.exp(params.log_outer)
        earlier = jnp.einsum("iwj,j->iw", params.inner * before[:, None, :], x)
        hidden = jnp.tanh(earlier + own_in * x[:, None] + params.inner_bias)
        value = jnp.einsum("ijw,jw->i", params.outer * before[:, :, None], hidden)
        value = value + jnp.sum(own_out * hidden, 1) + params.outer_bias
        slope = jnp.sum(own_out * (1 - hidden**2) * own_in, 1)
        share = jax.nn.sigmoid(params.gate)
        rest = jax.nn.sigmoid(-params.gate)
        return share * x + rest * value, jnp.sum(jnp.log(share + rest * slope))

    def inverse(self, params: BNAFParams, y: Array) -> tuple[Array, Array]:
        x = root.by_coordinate(lambda x: self.forward(params, x)[0], y)
        return polish(self, params, y, x)
