"""Planar flows: a ridge across one direction."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.guides.flow import root
from vijax.guides.flow.bijection import Bijection, default_float
from vijax.guides.flow.positive import above_minus_one


class PlanarParams(NamedTuple):
    """`push` and `normal` `(dim,)`, and the scalar `offset`."""

    push: Array
    normal: Array
    offset: Array


@dataclasses.dataclass(frozen=True)
class Planar(Bijection):
    """`y = x + u tanh(w'x + b)`, with `log |J| = log(1 + (1 - tanh^2) w'u)`.

    `u` is `push` moved along `w = normal` until `w'u > -1`, which keeps the map one-to-one, and so
    that a `push` of zero is the identity. The inverse is one scalar root. Source: Variational
    Inference with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    def init(self, key: Array, dim: int) -> PlanarParams:
        normal = jax.random.normal(key, (dim,), default_float()) / math.sqrt(dim)
        return PlanarParams(jnp.zeros(dim), normal, jnp.zeros(()))

    def forward(self, params: PlanarParams, x: Array) -> tuple[Array, Array]:
        push, product = _allowed(params)
        ridge = jnp.tanh(params.normal @ x + params.offset)
        return x + push * ridge, jnp.log1p((1 - ridge**2) * product)

    def inverse(self, params: PlanarParams, y: Array) -> tuple[Array, Array]:
        push, product = _allowed(params)
        across = params.normal @ y + params.offset

        def image(t: Array) -> Array:
            return t + product * jnp.tanh(t)

        start = root.increasing(lambda t: lax.stop_gradient(image(t)), across, across)
        slope = 1 + product * (1 - jnp.tanh(start) ** 2)
        at = start + (across - image(start)) / lax.stop_gradient(slope)
        ridge = jnp.tanh(at)
        return y - push * ridge, -jnp.log1p((1 - ridge**2) * product)


def _allowed(params: PlanarParams) -> tuple[Array, Array]:
    """`u` and `w'u`, the latter above -1."""
    inside = params.normal @ params.push
    product = above_minus_one(inside)
    square = params.normal @ params.normal + 1e-12
    return params.push + (product - inside) * params.normal / square, product
