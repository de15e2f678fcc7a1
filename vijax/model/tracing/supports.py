"""Bijections from unconstrained space onto the supports of distributions.

Most are NumPyro's. The sphere and the circle have no bijection from `R^n`; there the unconstrained
value is a point `z` of the embedding space, the value is its direction `z / |z|`, and the radius
has an auxiliary density that integrates to one. The posterior of the direction and the evidence are
unchanged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

Shape = tuple[int, ...]

# The radius has density proportional to r^(n - 1 + k) exp(-k r^2 / 2) in n dimensions. With any
# k > 0 the joint density has its mode at r = 1 (with k = 0 at the singular origin, where MAP and
# Laplace fail); a larger k concentrates the density around the sphere.
_RADIAL = 4.0


@dataclasses.dataclass(frozen=True)
class Bijector:
    """A map from unconstrained `z` to a value `x` in a support.

    Attributes:
        forward: `z -> (x, log |dx/dz|)`, with the log determinant summed to a scalar.
        inverse: `x -> z`.
        z_shape: shape of `x` to shape of `z`.
    """

    forward: Callable[[Array], tuple[Array, Array]]
    inverse: Callable[[Array], Array]
    z_shape: Callable[[Shape], Shape]


def bijector(support: constraints.Constraint) -> Bijector:
    """The bijection onto a support, which may depend on traced values.

    Raises:
        NotImplementedError: no bijection onto this support is registered.
    """
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if base is constraints.circular:
        return Bijector(_to_circle, _from_circle, lambda shape: (*shape, 2))
    if base is constraints.sphere:
        return Bijector(_to_sphere, lambda x: x, lambda shape: shape)
    transform = biject_to(support)

    def forward(z: Array) -> tuple[Array, Array]:
        x = transform(z)
        # NumPyro's log determinant is complex for complex numbers
        return x, jnp.sum(jnp.real(transform.log_abs_det_jacobian(z, x)))

    return Bijector(forward, transform.inv, transform.inverse_shape)


def _to_sphere(z: Array) -> tuple[Array, Array]:
    square = jnp.sum(z**2, axis=-1)
    x = z / jnp.sqrt(square)[..., None]
    return x, jnp.sum(_radial_log_density(square, z.shape[-1]))


def _to_circle(z: Array) -> tuple[Array, Array]:
    square = jnp.sum(z**2, axis=-1)
    return jnp.arctan2(z[..., 1], z[..., 0]), jnp.sum(_radial_log_density(square, 2))


def _from_circle(x: Array) -> Array:
    return jnp.stack([jnp.cos(x), jnp.sin(x)], axis=-1)


def _radial_log_density(square: Array, n: int) -> Array:
    """`log g(r) / r^(n-1)` for `g` the normalized density of the radius; `square` is `r^2`."""
    half = (n + _RADIAL) / 2
    log_constant = math.log(0.5) + half * math.log(2 / _RADIAL) + math.lgamma(half)
    return 0.5 * _RADIAL * (jnp.log(square) - square) - log_constant
