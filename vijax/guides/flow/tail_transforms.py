"""Elementwise maps that change the tails: logarithmic (LOFT) and heavy (Lambert W)."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.guides.flow.bijection import Bijection
from vijax.runtime.errors import GuideError, mismatch

_NUM_NEWTON_STEPS = 12  # for Lambert's W in logarithms; converges in eight from any start


@dataclasses.dataclass(frozen=True)
class LOFT(Bijection):
    """Log soft extension: `y = sign(x) (min(|x|, t) + log(1 + max(|x| - t, 0)))`.

    The identity up to `t`, logarithmic beyond. Keeps the draws of a deep flow finite early in the
    fit. It has no parameters. Source: Stable Training of Normalizing Flows for High-dimensional
    Variational Inference, Andrade, 2024.

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
    """`raw` `(2, dim)`: unconstrained weights of the left and right tails of every coordinate."""

    raw: Array


@dataclasses.dataclass(frozen=True)
class HeavyTails(Bijection):
    """Heavy-tail map `y = x exp(h x^2 / 2)`, elementwise, with separate `h > 0` for each tail.

    A normal `x` gives a `y` with Pareto tails of index `1 / h`, which no flow with bounded slopes
    can. `h = softplus(raw + offset)` is `start` initially, where the map is close to the identity.
    `log |J| = sum(h x^2 / 2 + log(1 + h x^2))`, and the inverse is
    `sign(y) sqrt(W(h y^2) / h)` with Lambert's `W`. Sources: Modern Techniques in Exploratory Data
    Analysis, Tukey, 1977; The Lambert Way to Gaussianize Heavy-Tailed Data, Goerg, 2015; Flexible
    Tails for Normalizing Flows, Hickling and Prangle, 2024.

    Args:
        start: initial `h`.

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
        h = self._tail_weight(params, x)
        square = h * x**2
        return x * jnp.exp(0.5 * square), jnp.sum(0.5 * square + jnp.log1p(square))

    def inverse(self, params: HeavyTailsParams, y: Array) -> tuple[Array, Array]:
        h = self._tail_weight(params, y)
        # h x^2 = W(h y^2); x = y exp(-h x^2 / 2) is accurate near zero
        log_t = jnp.log(h) + 2 * jnp.log(jnp.maximum(jnp.abs(y), 1e-15))
        square = jnp.exp(_log_lambert_w(log_t))
        return y * jnp.exp(-0.5 * square), -jnp.sum(0.5 * square + jnp.log1p(square))

    def _tail_weight(self, params: HeavyTailsParams, x: Array) -> Array:
        left, right = params.raw
        # offset: raw = 0 gives `start`, where a unit of raw is a unit of log h
        return jax.nn.softplus(jnp.where(x < 0, left, right) + math.log(math.expm1(self.start)))


def _log_lambert_w(log_t: Array) -> Array:
    """`log W(t)` of Lambert's W, the root `v` of `v + exp(v) = log t`; differentiable."""
    guess = jnp.where(log_t > 1, jnp.log(jnp.maximum(log_t, 1.0)), jnp.minimum(log_t, 0.0))

    def newton(v: Array, log_t: Array) -> Array:
        return v - (v + jnp.exp(v) - log_t) / (1 + jnp.exp(v))

    fixed = lax.stop_gradient(log_t)
    v = lax.fori_loop(0, _NUM_NEWTON_STEPS, lambda _, v: newton(v, fixed), lax.stop_gradient(guess))
    return newton(v, log_t)
