"""Marginal maps that change tails: a squash that tames them, a stretch that makes them heavy."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.guides.flow.bijection import Bijection
from vijax.runtime.errors import GuideError, mismatch

_NEWTON = 12  # steps for Lambert's W in logarithms; it converges from anywhere in eight


@dataclasses.dataclass(frozen=True)
class LOFT(Bijection):
    """`y = sign(x) (min(|x|, t) + log(1 + max(|x| - t, 0)))`: the identity up to `t`, then a log.

    Keeps the draws of a deep flow finite while it is still far from trained. It has no
    parameters. Source: Stable Training of Normalizing Flows for High-dimensional Variational
    Inference, Andrade, 2024.

    Args:
        threshold: `t`, positive.

    Raises:
        GuideError: `threshold` is not positive.
    """

    threshold: float = 100.0

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise GuideError(mismatch("threshold", "a positive number", self.threshold))

    def init(self, key: Array, dim: int) -> tuple[()]:
        return ()

    def forward(self, params: tuple[()], x: Array) -> tuple[Array, Array]:
        inside = jnp.clip(x, -self.threshold, self.threshold)
        beyond = jnp.log1p(jnp.abs(x - inside))
        return inside + jnp.sign(x) * beyond, -jnp.sum(beyond)

    def inverse(self, params: tuple[()], y: Array) -> tuple[Array, Array]:
        inside = jnp.clip(y, -self.threshold, self.threshold)
        beyond = jnp.abs(y - inside)
        return inside + jnp.sign(y) * jnp.expm1(beyond), jnp.sum(beyond)


class HeavyTailsParams(NamedTuple):
    """`raw` `(2, dim)`: the left and the right tail of every coordinate."""

    raw: Array


@dataclasses.dataclass(frozen=True)
class HeavyTails(Bijection):
    """`y = x exp(h x^2 / 2)` coordinate by coordinate, `h > 0` on either side of zero.

    A normal `x` becomes a `y` with Pareto tails of index `1 / h`: no smooth flow with bounded
    slopes can do that. `h = softplus(raw + offset)` begins at `start`, where the map is nearly the
    identity. `log |J| = sum(h x^2 / 2 + log(1 + h x^2))`, and the inverse is
    `sign(y) sqrt(W(h y^2) / h)` with Lambert's `W`. Sources: Modern Techniques in Exploratory Data
    Analysis, Tukey, 1977; The Lambert Way to Gaussianize Heavy-Tailed Data, Goerg, 2015; Flexible
    Tails for Normalizing Flows, Hickling and Prangle, 2024.

    Args:
        start: `h` at the start.

    Raises:
        GuideError: `start` is not positive.
    """

    start: float = 1e-3

    def __post_init__(self) -> None:
        if not self.start > 0:
            raise GuideError(mismatch("start", "a positive number", self.start))

    def init(self, key: Array, dim: int) -> HeavyTailsParams:
        return HeavyTailsParams(jnp.zeros((2, dim)))

    def forward(self, params: HeavyTailsParams, x: Array) -> tuple[Array, Array]:
        h = self._weight(params, x)
        square = h * x**2
        return x * jnp.exp(0.5 * square), jnp.sum(0.5 * square + jnp.log1p(square))

    def inverse(self, params: HeavyTailsParams, y: Array) -> tuple[Array, Array]:
        h = self._weight(params, y)
        # h x^2 = W(h y^2), and x = y exp(-h x^2 / 2) loses no digits near zero
        size = jnp.log(h) + 2 * jnp.log(jnp.maximum(jnp.abs(y), 1e-15))
        square = jnp.exp(_log_lambert(size))
        return y * jnp.exp(-0.5 * square), -jnp.sum(0.5 * square + jnp.log1p(square))

    def _weight(self, params: HeavyTailsParams, x: Array) -> Array:
        left, right = params.raw
        # offset so that a raw of zero gives `start`; one unit of raw is one unit of log h there
        return jax.nn.softplus(jnp.where(x < 0, left, right) + math.log(math.expm1(self.start)))


def _log_lambert(log_t: Array) -> Array:
    """`log W(t)`: the root `v` of `v + exp(v) = log t`; differentiable."""
    guess = jnp.where(log_t > 1, jnp.log(jnp.maximum(log_t, 1.0)), jnp.minimum(log_t, 0.0))

    def newton(v: Array, log_t: Array) -> Array:
        return v - (v + jnp.exp(v) - log_t) / (1 + jnp.exp(v))

    fixed = lax.stop_gradient(log_t)
    v = lax.fori_loop(0, _NEWTON, lambda _, v: newton(v, fixed), lax.stop_gradient(guess))
    return newton(v, log_t)
