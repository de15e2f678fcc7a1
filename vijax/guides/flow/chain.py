"""Compositions of bijections: chains, repeated layers and inverses."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import PyTree
from vijax.guides.flow.bijection import Bijection
from vijax.runtime.errors import GuideError, mismatch


@dataclasses.dataclass(frozen=True)
class Chain(Bijection):
    """Composition `y = f_n(...f_2(f_1(x)))`; parameters are a tuple, one entry per part.

    Args:
        parts: applied first to last.
    """

    parts: tuple[Bijection, ...]

    def init(self, key: Array, dim: int) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, max(len(self.parts), 1))
        return tuple(part.init(keys[i], dim) for i, part in enumerate(self.parts))

    def forward(self, params: tuple[PyTree, ...], x: Array) -> tuple[Array, Array]:
        total = jnp.zeros((), x.dtype)
        for part, values in zip(self.parts, params, strict=True):
            x, log_det = part.forward(values, x)
            total = total + log_det
        return x, total

    def inverse(self, params: tuple[PyTree, ...], y: Array) -> tuple[Array, Array]:
        total = jnp.zeros((), y.dtype)
        for part, values in zip(self.parts[::-1], params[::-1], strict=True):
            y, log_det = part.inverse(values, y)
            total = total + log_det
        return y, total

    def forward_score(
        self, params: tuple[PyTree, ...], x: Array, score: Array
    ) -> tuple[Array, Array, Array]:
        total = jnp.zeros((), x.dtype)
        for part, values in zip(self.parts, params, strict=True):
            x, log_det, score = part.forward_score(values, x, score)
            total = total + log_det
        return x, total, score


@dataclasses.dataclass(frozen=True)
class Repeat(Bijection):
    """Composition of `count` copies of a bijection, each with separate parameters.

    Parameters are stacked along a leading axis and applied by one `scan`, so that compile time
    does not grow with `count`.

    Args:
        part: the bijection to repeat.
        count: number of copies, at least 1.

    Raises:
        GuideError: `count` is less than one.
    """

    part: Bijection
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise GuideError(mismatch("count", "at least 1", self.count))

    def init(self, key: Array, dim: int) -> PyTree:
        return jax.vmap(lambda key: self.part.init(key, dim))(jax.random.split(key, self.count))

    def forward(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        y, log_dets = lax.scan(lambda x, p: self.part.forward(p, x), x, params, self.count)
        return y, jnp.sum(log_dets)

    def inverse(self, params: PyTree, y: Array) -> tuple[Array, Array]:
        def step(y: Array, layer: PyTree) -> tuple[Array, Array]:
            return self.part.inverse(layer, y)

        x, log_dets = lax.scan(step, y, params, self.count, reverse=True)
        return x, jnp.sum(log_dets)

    def forward_score(self, params: PyTree, x: Array, score: Array) -> tuple[Array, Array, Array]:
        def step(carry: tuple[Array, Array], layer: PyTree) -> tuple[tuple[Array, Array], Array]:
            y, log_det, score = self.part.forward_score(layer, *carry)
            return (y, score), log_det

        (y, score), log_dets = lax.scan(step, (x, score), params, self.count)
        return y, jnp.sum(log_dets), score


@dataclasses.dataclass(frozen=True)
class Invert(Bijection):
    """The inverse of a bijection.

    Args:
        part: the bijection to invert.
    """

    cheap_inverse: ClassVar[bool] = True  # it is the `forward` of the part
    part: Any

    def init(self, key: Array, dim: int) -> PyTree:
        return self.part.init(key, dim)

    def forward(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return self.part.inverse(params, x)

    def inverse(self, params: PyTree, y: Array) -> tuple[Array, Array]:
        return self.part.forward(params, y)
