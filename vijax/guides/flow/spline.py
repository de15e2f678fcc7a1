"""Monotone rational-quadratic splines."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.guides.flow.elementwise import Elementwise
from vijax.runtime.errors import GuideError, mismatch

_MIN_SHARE = 1e-3  # of the bound, that a bin keeps in width and in height
_MIN_SLOPE = 1e-3
_UNIT = math.log(math.expm1(1 - _MIN_SLOPE))  # softplus of it is one, less the smallest slope


class _Bin(NamedTuple):
    """The bin that a point lies in: lower corner, width, height, slopes at both corners."""

    x: Array
    y: Array
    width: Array
    height: Array
    left: Array
    right: Array


@dataclasses.dataclass(frozen=True)
class Spline(Elementwise):
    """A rational-quadratic spline on `[-bound, bound]`, the identity outside.

    In each bin a ratio of quadratics with given slopes at the knots; its inverse is the root of a
    quadratic. `raw` holds logits of `bins` widths, logits of as many heights, and `bins - 1`
    slopes. Source: Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios, 2019.

    Args:
        bins: number of bins.
        bound: half the interval, in the units of the whitened space.

    Raises:
        GuideError: an option is too small.
    """

    bins: int = 8
    bound: float = 6.0

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise GuideError(mismatch("bins", "at least 2", self.bins))
        if not self.bound > 0:
            raise GuideError(mismatch("bound", "a positive number", self.bound))

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        inside = jnp.clip(x, -self.bound, self.bound)
        at = self._bin(raw, inside, by_image=False)
        part = jnp.clip((inside - at.x) / at.width, 0.0, 1.0)
        y, log_slope = _evaluate(at, part)
        within = jnp.abs(x) < self.bound
        return jnp.where(within, y, x), jnp.where(within, log_slope, 0.0)

    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        inside = jnp.clip(y, -self.bound, self.bound)
        at = self._bin(raw, inside, by_image=True)
        mean = at.height / at.width
        rise = inside - at.y
        bend = at.left + at.right - 2 * mean
        a = at.height * (mean - at.left) + rise * bend
        b = at.height * at.left - rise * bend
        c = -mean * rise
        root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 1e-20))
        part = jnp.clip(-2 * c / (b + root), 0.0, 1.0)
        _, log_slope = _evaluate(at, part)
        within = jnp.abs(y) < self.bound
        x = at.x + part * at.width
        return jnp.where(within, x, y), jnp.where(within, -log_slope, 0.0)

    def _bin(self, raw: Array, value: Array, by_image: bool) -> _Bin:
        widths, heights, slopes = jnp.split(raw, (self.bins, 2 * self.bins))
        x, y = self._knots(widths), self._knots(heights)
        ends = jnp.ones(1, raw.dtype)
        slopes = jnp.concatenate([ends, _MIN_SLOPE + jax.nn.softplus(slopes + _UNIT), ends])
        inner = (y if by_image else x)[1:-1]
        which = jnp.sum(value >= inner)
        # a mask and a sum: the gradient of an index would be a scatter, slow on a CPU
        chosen = jnp.arange(self.bins) == which

        def pick(values: Array) -> Array:
            return jnp.sum(jnp.where(chosen, values, 0.0))

        return _Bin(
            pick(x[:-1]),
            pick(y[:-1]),
            pick(x[1:] - x[:-1]),
            pick(y[1:] - y[:-1]),
            pick(slopes[:-1]),
            pick(slopes[1:]),
        )

    def _knots(self, logits: Array) -> Array:
        shares = _MIN_SHARE + (1 - _MIN_SHARE * self.bins) * jax.nn.softmax(logits)
        start = jnp.zeros(1, logits.dtype)
        return self.bound * (2 * jnp.concatenate([start, jnp.cumsum(shares)]) - 1)


def _evaluate(at: _Bin, part: Array) -> tuple[Array, Array]:
    """The spline and its log slope at a share `part` of the bin's width."""
    mean, mixed = at.height / at.width, part * (1 - part)
    below = mean + (at.left + at.right - 2 * mean) * mixed
    y = at.y + at.height * (mean * part**2 + at.left * mixed) / below
    above = at.right * part**2 + 2 * mean * mixed + at.left * (1 - part) ** 2
    return y, 2 * jnp.log(mean) + jnp.log(above) - 2 * jnp.log(below)
