"""Radial flows: away from, or towards, one point."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.guides.flow.bijection import Bijection, default_float
from vijax.guides.flow.positive import above_minus_one

_TINY = 1e-12  # squared length that keeps the gradient of a norm finite at the center


class RadialParams(NamedTuple):
    """`center` `(dim,)`, and the scalars `log_width` and `raw`, the strength."""

    center: Array
    log_width: Array
    raw: Array


@dataclasses.dataclass(frozen=True)
class Radial(Bijection):
    """`y = x + beta (x - c) / (alpha + r)` with `r = |x - c|`.

    `alpha = exp(log_width)` and `beta > -alpha`, which keeps the map one-to-one; `log |J|` is
    `(dim - 1) log(1 + beta / (alpha + r)) + log(1 + alpha beta / (alpha + r)^2)`. The inverse is
    the positive root of a quadratic in `r`. Source: Variational Inference with Normalizing Flows,
    Rezende and Mohamed, 2015.
    """

    def init(self, key: Array, dim: int) -> RadialParams:
        center = jax.random.normal(key, (dim,), default_float())
        return RadialParams(center, jnp.zeros(()), jnp.zeros(()))

    def forward(self, params: RadialParams, x: Array) -> tuple[Array, Array]:
        alpha, beta = _width_and_strength(params)
        away = x - params.center
        radius = jnp.sqrt(jnp.sum(away**2) + _TINY)
        return x + beta / (alpha + radius) * away, _log_det(alpha, beta, radius, x.size)

    def inverse(self, params: RadialParams, y: Array) -> tuple[Array, Array]:
        alpha, beta = _width_and_strength(params)
        away = y - params.center
        length = jnp.sqrt(jnp.sum(away**2) + _TINY)
        b, c = alpha + beta - length, alpha * length
        discriminant = jnp.sqrt(b**2 + 4 * c)
        # of the two forms of the root the one that does not cancel
        radius = jnp.where(b > 0, 2 * c / (jnp.abs(b) + discriminant), 0.5 * (discriminant - b))
        x = params.center + away / (1 + beta / (alpha + radius))
        return x, -_log_det(alpha, beta, radius, y.size)


def _width_and_strength(params: RadialParams) -> tuple[Array, Array]:
    alpha = jnp.exp(params.log_width)
    return alpha, alpha * above_minus_one(params.raw)


def _log_det(alpha: Array, beta: Array, radius: Array, dim: int) -> Array:
    reach = alpha + radius
    return (dim - 1) * jnp.log1p(beta / reach) + jnp.log1p(alpha * beta / reach**2)
