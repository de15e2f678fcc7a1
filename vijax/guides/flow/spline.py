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

_MIN_FRACTION = 1e-3  # smallest width and height of a bin, relative to the interval
_MIN_SLOPE = 1e-3
_SLOPE_OFFSET = math.log(math.expm1(1 - _MIN_SLOPE))  # raw = 0 gives a slope of 1


class _Bin(NamedTuple):
    """The bin that contains a point: lower corner, width, height, slopes at both corners."""

    x: Array
    y: Array
    width: Array
    height: Array
    left: Array
    right: Array


@dataclasses.dataclass(frozen=True)
class Spline(Elementwise):
    """Monotone rational-quadratic spline on `[-bound, bound]`, the identity outside.

    In each bin it is a ratio of quadratics with given slopes at the knots; the inverse is the root
    of a quadratic. `raw` contains logits of `bins` widths, logits of `bins` heights, and `bins - 1`
    unconstrained slopes. Source: Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios, 2019.

    Args:
        bins: number of bins.
        bound: half the length of the interval, in whitened space.

    Raises:
        GuideError: `bins` is less than 2, or `bound` not positive.
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
        at = self._bin(raw, inside, inverse=False)
        theta = jnp.clip((inside - at.x) / at.width, 0.0, 1.0)
        y, log_slope = _evaluate(at, theta)
        within = jnp.abs(x) < self.bound
        return jnp.where(within, y, x), jnp.where(within, log_slope, 0.0)

    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        inside = jnp.clip(y, -self.bound, self.bound)
        at = self._bin(raw, inside, inverse=True)
        mean = at.height / at.width
        rise = inside - at.y
        curvature = at.left + at.right - 2 * mean
        a = at.height * (mean - at.left) + rise * curvature
        b = at.height * at.left - rise * curvature
        c = -mean * rise
        root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 1e-20))
        theta = jnp.clip(-2 * c / (b + root), 0.0, 1.0)
        _, log_slope = _evaluate(at, theta)
        within = jnp.abs(y) < self.bound
        x = at.x + theta * at.width
        return jnp.where(within, x, y), jnp.where(within, -log_slope, 0.0)

    def _bin(self, raw: Array, value: Array, inverse: bool) -> _Bin:
        widths, heights, slopes = jnp.split(raw, (self.bins, 2 * self.bins))
        x, y = self._knots(widths), self._knots(heights)
        ends = jnp.ones(1, raw.dtype)
        slopes = jnp.concatenate([ends, _MIN_SLOPE + jax.nn.softplus(slopes + _SLOPE_OFFSET), ends])
        knots = (y if inverse else x)[1:-1]
        index = jnp.sum(value >= knots)
        # a masked sum instead of indexing, whose gradient is a scatter, slow on a CPU
        mask = jnp.arange(self.bins) == index

        def pick(values: Array) -> Array:
            return jnp.sum(jnp.where(mask, values, 0.0))

        return _Bin(
            pick(x[:-1]),
            pick(y[:-1]),
            pick(x[1:] - x[:-1]),
            pick(y[1:] - y[:-1]),
            pick(slopes[:-1]),
            pick(slopes[1:]),
        )

    def _knots(self, logits: Array) -> Array:
        fractions = _MIN_FRACTION + (1 - _MIN_FRACTION * self.bins) * jax.nn.softmax(logits)
        start = jnp.zeros(1, logits.dtype)
        return self.bound * (2 * jnp.concatenate([start, jnp.cumsum(fractions)]) - 1)


def _evaluate(at: _Bin, theta: Array) -> tuple[Array, Array]:
    """The spline and its log slope at a fraction `theta` of the bin's width."""
    mean, mixed = at.height / at.width, theta * (1 - theta)
    denominator = mean + (at.left + at.right - 2 * mean) * mixed
    y = at.y + at.height * (mean * theta**2 + at.left * mixed) / denominator
    numerator = at.right * theta**2 + 2 * mean * mixed + at.left * (1 - theta) ** 2
    return y, 2 * jnp.log(mean) + jnp.log(numerator) - 2 * jnp.log(denominator)
