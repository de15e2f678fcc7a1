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
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    biject_to,
)

from vijax.model.tracing.wrappers import base_distribution

Shape = tuple[int, ...]

# The radius has density proportional to r^(n - 1 + k) exp(-k r^2 / 2) in n dimensions. With any
# k > 0 the joint density has its mode at r = 1 (with k = 0 at the singular origin, where MAP and
# Laplace fail); a larger k concentrates the density around the sphere.
_RADIAL = 4.0

_ATOMIC_NAMES = (  # some are newer than the oldest NumPyro that is supported
    "Delta",
    "HurdleProbs",
    "IntervalCensoredDistribution",
    "LeftCensoredDistribution",
    "RightCensoredDistribution",
)
_ATOMIC = tuple(vars(dist)[name] for name in _ATOMIC_NAMES if name in vars(dist))


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
    base = _entrywise(support)
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


def site_bijector(fn: dist.Distribution) -> Bijector:
    """The bijection onto the support of a distribution.

    NumPyro takes the codomain of its last transform for the support of a transformed distribution,
    which is larger where the base distribution does not fill the domain of the first, and misplaced
    where a traced scale is negative. There the transforms are applied to the bijection onto the
    support of the base distribution.
    """
    transformed = _transformed(fn)
    if transformed is None:
        return bijector(fn.support)
    base, transform = site_bijector(transformed.base_dist), ComposeTransform(transformed.transforms)

    def forward(z: Array) -> tuple[Array, Array]:
        x, log_det = base.forward(z)
        y = transform(x)
        return y, log_det + jnp.sum(transform.log_abs_det_jacobian(x, y))

    return Bijector(
        forward,
        lambda x: base.inverse(transform.inv(x)),
        lambda shape: base.z_shape(transform.inverse_shape(shape)),
    )


def is_unbounded(fn: dist.Distribution) -> bool:
    """Whether every entry of a value of the distribution is any real number."""
    return _transformed(fn) is None and _entrywise(fn.support) is constraints.real


def atomic_part(fn: dist.Distribution) -> dist.Distribution | None:
    """The part of a continuous distribution that has atoms, `None` without one."""
    if isinstance(fn, _ATOMIC):
        return fn
    parts = list(getattr(fn, "component_distributions", ()))  # of a mixture
    for attribute in ("base_dist", "component_distribution"):
        if isinstance(part := getattr(fn, attribute, None), dist.Distribution):
            parts.append(part)
    return next((found for part in parts if (found := atomic_part(part)) is not None), None)


def _transformed(fn: dist.Distribution) -> dist.TransformedDistribution | None:
    """The transformed distribution whose support is not the codomain of its transforms, if any."""
    fn = base_distribution(fn)
    if type(fn).support is not dist.TransformedDistribution.support:
        return None  # not transformed, or its class defines its support
    if any(isinstance(step, AbsTransform) for step in fn.transforms):
        return None  # not a bijection
    base, first = fn.base_dist, fn.transforms[0]
    domain, support = _entrywise(first.domain), _entrywise(base.support)
    if isinstance(first, AffineTransform) and domain is not constraints.real:
        return fn
    fills = domain is support or (type(domain) is type(support) and not _bounds(support))
    return None if fills and _transformed(base) is None else fn


def _entrywise(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _bounds(support: constraints.Constraint) -> bool:
    """Whether a support has bounds, which may be traced."""
    return bool(support.tree_flatten()[0])


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
