"""Planar, radial and Sylvester flows."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.guides.flow.bijection import Bijection, default_float
from vijax.guides.flow.inversion import bisect, bisect_triangular, newton_step
from vijax.runtime.errors import GuideError, mismatch

_LOG_EXPM1 = math.log(math.e - 1)  # softplus of it is 1
_TINY = 1e-12  # added to a squared norm, keeps its gradient finite at zero


class PlanarParams(NamedTuple):
    """`u` and `w` `(dim,)`, and the scalar `offset`; `u` before the constraint on `w'u`."""

    u: Array
    w: Array
    offset: Array


class RadialParams(NamedTuple):
    """`center` `(dim,)`, and the scalars `log_alpha` and `raw_beta`."""

    center: Array
    log_alpha: Array
    raw_beta: Array


class SylvesterParams(NamedTuple):
    """`directions` `(dim, width)`, `outer` and `inner` `(width, width)`, `offset` `(width,)`."""

    directions: Array
    outer: Array
    inner: Array
    offset: Array


@dataclasses.dataclass(frozen=True)
class Planar(Bijection):
    """Planar flow: `y = x + u tanh(w'x + b)`, with `log |J| = log(1 + (1 - tanh^2) w'u)`.

    The parameter `u` is shifted along `w` so that `w'u > -1`, which ensures invertibility, and so
    that `u = 0` is the identity. The inverse is one scalar root. Source: Variational Inference
    with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    def init(self, key: Array, dim: int) -> PlanarParams:
        w = jax.random.normal(key, (dim,), default_float()) / math.sqrt(dim)
        return PlanarParams(jnp.zeros(dim), w, jnp.zeros(()))

    def forward(self, params: PlanarParams, x: Array) -> tuple[Array, Array]:
        u, product = _constrained_u(params)
        hidden = jnp.tanh(params.w @ x + params.offset)
        return x + u * hidden, jnp.log1p((1 - hidden**2) * product)

    def inverse(self, params: PlanarParams, y: Array) -> tuple[Array, Array]:
        u, product = _constrained_u(params)
        target = params.w @ y + params.offset

        def image(t: Array) -> Array:
            return t + product * jnp.tanh(t)

        start = bisect(lambda t: lax.stop_gradient(image(t)), target, target)
        slope = 1 + product * (1 - jnp.tanh(start) ** 2)
        root = start + (target - image(start)) / lax.stop_gradient(slope)
        hidden = jnp.tanh(root)
        return y - u * hidden, -jnp.log1p((1 - hidden**2) * product)


@dataclasses.dataclass(frozen=True)
class Radial(Bijection):
    """Radial flow: `y = x + beta (x - c) / (alpha + r)` with `r = |x - c|`.

    `alpha = exp(log_alpha)` and `beta > -alpha`, which ensures invertibility; `log |J|` is
    `(dim - 1) log(1 + beta / (alpha + r)) + log(1 + alpha beta / (alpha + r)^2)`. The inverse is
    the positive root of a quadratic in `r`. Source: Variational Inference with Normalizing Flows,
    Rezende and Mohamed, 2015.
    """

    def init(self, key: Array, dim: int) -> RadialParams:
        center = jax.random.normal(key, (dim,), default_float())
        return RadialParams(center, jnp.zeros(()), jnp.zeros(()))

    def forward(self, params: RadialParams, x: Array) -> tuple[Array, Array]:
        alpha, beta = _alpha_and_beta(params)
        offset = x - params.center
        radius = jnp.sqrt(jnp.sum(offset**2) + _TINY)
        return x + beta / (alpha + radius) * offset, _radial_log_det(alpha, beta, radius, x.size)

    def inverse(self, params: RadialParams, y: Array) -> tuple[Array, Array]:
        alpha, beta = _alpha_and_beta(params)
        offset = y - params.center
        length = jnp.sqrt(jnp.sum(offset**2) + _TINY)
        b, c = alpha + beta - length, alpha * length
        discriminant = jnp.sqrt(b**2 + 4 * c)
        # the form of the root that does not cancel
        radius = jnp.where(b > 0, 2 * c / (jnp.abs(b) + discriminant), 0.5 * (discriminant - b))
        x = params.center + offset / (1 + beta / (alpha + radius))
        return x, -_radial_log_det(alpha, beta, radius, y.size)


@dataclasses.dataclass(frozen=True)
class Sylvester(Bijection):
    """Sylvester flow: `y = x + Q A tanh(B Q'x + b)`, `Q` orthonormal, `A`, `B` upper triangular.

    A planar flow in several directions. `log |J| = sum_i log(1 + (1 - tanh_i^2) A_ii B_ii)`; the
    products `A_ii B_ii` are constrained to be above -1 and start at zero, as does `A`. The inverse
    takes `width` scalar roots, last coordinate first. Entries below the diagonals are ignored.
    Source: Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever,
    Tomczak, Welling, 2018.

    Args:
        width: number of directions; at most `dim` are used.

    Raises:
        GuideError: `width` is less than one.
    """

    cheap_inverse: ClassVar[bool] = False
    width: int = 8

    def __post_init__(self) -> None:
        if self.width < 1:
            raise GuideError(mismatch("width", "at least 1", self.width))

    def init(self, key: Array, dim: int) -> SylvesterParams:
        width = min(self.width, dim)
        directions, inner = jax.random.split(key)
        return SylvesterParams(
            jax.random.normal(directions, (dim, width), default_float()),
            jnp.zeros((width, width)),
            0.1 * jax.random.normal(inner, (width, width), default_float()),
            jnp.zeros(width),
        )

    def forward(self, params: SylvesterParams, x: Array) -> tuple[Array, Array]:
        basis, outer, inner, products = _matrices(params)
        hidden = jnp.tanh(inner @ (basis.T @ x) + params.offset)
        return x + basis @ (outer @ hidden), jnp.sum(jnp.log1p((1 - hidden**2) * products))

    def inverse(self, params: SylvesterParams, y: Array) -> tuple[Array, Array]:
        basis, outer, inner, _ = _matrices(params)

        def image(v: Array) -> Array:
            return v + outer @ jnp.tanh(inner @ v + params.offset)

        projected = bisect_triangular(image, basis.T @ y, last_first=True)
        x = y - basis @ (outer @ jnp.tanh(inner @ projected + params.offset))
        return newton_step(self, params, y, x)


def _above_minus_one(raw: Array) -> Array:
    """Increasing map onto `(-1, inf)`, zero at zero."""
    return jax.nn.softplus(raw + _LOG_EXPM1) - 1


def _constrained_u(params: PlanarParams) -> tuple[Array, Array]:
    """`u` and `w'u`, the latter above -1."""
    raw = params.w @ params.u
    product = _above_minus_one(raw)
    square = params.w @ params.w + 1e-12
    return params.u + (product - raw) * params.w / square, product


def _alpha_and_beta(params: RadialParams) -> tuple[Array, Array]:
    alpha = jnp.exp(params.log_alpha)
    return alpha, alpha * _above_minus_one(params.raw_beta)


def _radial_log_det(alpha: Array, beta: Array, radius: Array, dim: int) -> Array:
    total = alpha + radius
    return (dim - 1) * jnp.log1p(beta / total) + jnp.log1p(alpha * beta / total**2)


def _matrices(params: SylvesterParams) -> tuple[Array, Array, Array, Array]:
    """`Q`, `A`, `B` and the products of the diagonals of `A` and `B`."""
    basis, _ = jnp.linalg.qr(params.directions)
    products = _above_minus_one(jnp.diag(params.outer))
    inner_diagonal = jnp.exp(jnp.diag(params.inner))
    outer = jnp.triu(params.outer, 1) + jnp.diag(products / inner_diagonal)
    inner = jnp.triu(params.inner, 1) + jnp.diag(inner_diagonal)
    return basis, outer, inner, products
