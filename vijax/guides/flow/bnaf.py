"""Block neural autoregressive flows (BNAF)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.guides.flow.bijection import Bijection, default_float
from vijax.guides.flow.inversion import bisect_triangular, newton_step
from vijax.runtime.errors import GuideError, mismatch

_INIT_GATE = 5.0  # logit of 0.993, the initial weight of the identity


class BNAFParams(NamedTuple):
    """Two layers with `width` units per coordinate, and a gate `(dim,)`.

    `inner` `(dim, width, dim)` and `outer` `(dim, dim, width)` are the off-diagonal blocks, the
    network weights from earlier coordinates. `log_inner` and `log_outer` `(dim, width)` are the
    logarithms of the diagonal blocks, which are positive. `inner_bias` is `(dim, width)` and
    `outer_bias` `(dim,)`.
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
    """BNAF layer: `y = g x + (1 - g) f(x)`, `f_i` increasing in `x_i` given earlier coordinates.

    `f` has one tanh hidden layer. Its network weights from a coordinate to itself are
    exponentials, so that the slope is a sum of positive terms without cancellation.
    `g = sigmoid(gate)` starts at 0.993. `forward` takes one pass, `inverse` bisects each coordinate
    in turn. Network weights from later coordinates are ignored. Source: Block Neural Autoregressive
    Flow, De Cao, Titov, Aziz, 2019.

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
        inner, outer, diagonal, bias = jax.random.split(key, 4)
        return BNAFParams(
            jax.random.normal(inner, (dim, width, dim), dtype) / math.sqrt(dim),
            0.3 * jax.random.normal(diagonal, (dim, width), dtype),
            jax.random.normal(bias, (dim, width), dtype),
            jax.random.normal(outer, (dim, dim, width), dtype) / math.sqrt(dim * width),
            jnp.full((dim, width), math.log(2 / width), dtype),
            jnp.zeros(dim),
            jnp.full(dim, _INIT_GATE, dtype),
        )

    def forward(self, params: BNAFParams, x: Array) -> tuple[Array, Array]:
        mask = np.tril(np.ones((x.size, x.size), np.float32), -1).astype(x.dtype)
        inner_diagonal, outer_diagonal = jnp.exp(params.log_inner), jnp.exp(params.log_outer)
        earlier = jnp.einsum("iwj,j->iw", params.inner * mask[:, None, :], x)
        hidden = jnp.tanh(earlier + inner_diagonal * x[:, None] + params.inner_bias)
        value = jnp.einsum("ijw,jw->i", params.outer * mask[:, :, None], hidden)
        value = value + jnp.sum(outer_diagonal * hidden, 1) + params.outer_bias
        slope = jnp.sum(outer_diagonal * (1 - hidden**2) * inner_diagonal, 1)
        g = jax.nn.sigmoid(params.gate)
        one_minus_g = jax.nn.sigmoid(-params.gate)
        return g * x + one_minus_g * value, jnp.sum(jnp.log(g + one_minus_g * slope))

    def inverse(self, params: BNAFParams, y: Array) -> tuple[Array, Array]:
        x = bisect_triangular(lambda x: self.forward(params, x)[0], y)
        return newton_step(self, params, y, x)
