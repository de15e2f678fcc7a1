"""Elementwise maps: scalar bijections whose parameters come from a conditioner, or are constant."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jax import Array

from vijax.guides.flow.bijection import Bijection
from vijax.runtime.errors import GuideError, mismatch


class Elementwise(abc.ABC):
    """An increasing scalar function; frozen, and the identity at parameters `raw` of zero."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of entries of `raw`."""

    @abc.abstractmethod
    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        """The image of a scalar `x`, and the log derivative there; `raw` is `(size,)`."""

    @abc.abstractmethod
    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """The inverse at a scalar `y`, and its log derivative there."""


@dataclasses.dataclass(frozen=True)
class Affine(Elementwise):
    """Affine map `y = exp(s) x + t`, with `s = c arctan(raw / c)`, `c = 2 clamp / pi`.

    The clamp `|s| < clamp` keeps the product of several layers' scales from overflowing early in
    the fit. Sources: Density Estimation Using Real NVP, Dinh, Sohl-Dickstein, Bengio, 2017; for the
    clamp, Guided Image Generation with Conditional Invertible Neural Networks, Ardizzone et al.,
    2019.

    Args:
        clamp: largest absolute log scale of one layer.

    Raises:
        GuideError: `clamp` is not positive.
    """

    clamp: float = 2.0

    def __post_init__(self) -> None:
        if not self.clamp > 0:
            raise GuideError(mismatch("clamp", "a positive number", self.clamp))

    @property
    def size(self) -> int:
        return 2

    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return jnp.exp(log_scale) * x + raw[1], log_scale

    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return (y - raw[1]) * jnp.exp(-log_scale), -log_scale

    def _log_scale(self, raw: Array) -> Array:
        c = 2 * self.clamp / math.pi
        return c * jnp.arctan(raw[0] / c)


@dataclasses.dataclass(frozen=True)
class Composed(Elementwise):
    """Several elementwise maps, one after the other; `raw` has the parameters of each in turn.

    Args:
        parts: the maps, in the order of `forward`.
    """

    parts: tuple[Elementwise, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        total = jnp.zeros(())
        for part, own in self._split(raw):
            x, log_slope = part.forward(own, x)
            total += log_slope
        return x, total

    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        total = jnp.zeros(())
        for part, own in reversed(self._split(raw)):
            y, log_slope = part.inverse(own, y)
            total += log_slope
        return y, total

    def _split(self, raw: Array) -> list[tuple[Elementwise, Array]]:
        ends = list(itertools.accumulate(part.size for part in self.parts))[:-1]
        return list(zip(self.parts, jnp.split(raw, ends), strict=True))


@dataclasses.dataclass(frozen=True)
class Marginal(Bijection):
    """An elementwise map with constant parameters for each coordinate.

    Args:
        elementwise: the elementwise map.
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
