"""Centering: coordinates in which a hierarchical site depends less on its own location and scale.

A site `x ~ LocationScale(loc, scale)` whose scale is itself latent makes a funnel: where the scale
is small, so is `x`. In the coordinate `w`, with weights `c` between 0 (non-centered) and 1 (the
model's own, centered),

    x = loc + scale^(1 - c) (w - c loc),    log |dx/dw| = (1 - c) log scale,

and where the scale is a Cholesky factor `L`, with `M = diag(c) + diag(1 - c) L`,

    x = loc + M (w - c loc),    log |dx/dw| = sum log diag(M).

A prior that dominates its data wants `c = 0`, data that dominate the prior want `c = 1`, and in
between the best `c` is the share of the information on `x` that comes from the data. Sources:
A general framework for the parametrization of hierarchical models, Papaspiliopoulos, Roberts,
Skold, 2007; Automatic reparameterization of probabilistic programs, Gorinova, Moore, Hoffman, 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import solve_triangular

# All on the real line with parameters `loc` and `scale`, the last one after a logarithm.
_FAMILIES = {dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel}
_FAMILIES |= {dist.LogNormal}
_JOINT = {dist.MultivariateNormal, dist.MultivariateStudentT}


class LocationScale(NamedTuple):
    """What the prior of a site's unconstrained value is shifted and scaled by.

    Both broadcast against the site's shape; `scale` is one number for every coordinate, or a
    lower triangular factor `(..., n, n)` if `joint`.
    """

    loc: Array
    scale: Array
    joint: bool


def location_scale(fn: dist.Distribution) -> LocationScale | None:
    """Location and scale of a site, `None` if its family has none."""
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist  # its parameters broadcast from the right in each case
    if type(fn) in _FAMILIES:
        return LocationScale(jnp.asarray(fn.loc), jnp.asarray(fn.scale), False)
    if type(fn) in _JOINT:
        return LocationScale(jnp.asarray(fn.loc), jnp.asarray(fn.scale_tril), True)
    return None


def place(w: Array, weight: Array, prior: LocationScale) -> tuple[Array, Array]:
    """The unconstrained value at coordinate `w`, and the summed `log |dz/dw|`."""
    offset = w - weight * prior.loc
    if prior.joint:
        matrix = _matrix(weight, prior.scale)
        log_stretch = jnp.log(jnp.diagonal(matrix, axis1=-2, axis2=-1))
        z = prior.loc + (matrix @ offset[..., None])[..., 0]
    else:
        log_stretch = (1 - weight) * jnp.log(prior.scale)
        z = prior.loc + jnp.exp(log_stretch) * offset
    return z, jnp.sum(jnp.broadcast_to(log_stretch, jnp.shape(w)))


def coordinate(z: Array, weight: Array, prior: LocationScale) -> Array:
    """The inverse of `place`."""
    offset = z - prior.loc
    if prior.joint:
        matrix = jnp.broadcast_to(_matrix(weight, prior.scale), (*z.shape, z.shape[-1]))
        shift = solve_triangular(matrix, offset[..., None], lower=True)[..., 0]
    else:
        shift = offset * jnp.exp((weight - 1) * jnp.log(prior.scale))
    return weight * prior.loc + shift


def log_prior_sd(weight: Array, prior: LocationScale) -> Array:
    """Log standard deviation of each coordinate of a normal prior given the others, like `w`."""
    if prior.joint:
        matrix = _matrix(weight, prior.scale)
        factor = jnp.broadcast_to(prior.scale, matrix.shape)
        whitened = solve_triangular(factor, matrix, lower=True)
        return -0.5 * jnp.log(jnp.sum(whitened**2, axis=-2))
    return jnp.broadcast_to(weight * jnp.log(prior.scale), weight.shape)


def _matrix(weight: Array, factor: Array) -> Array:
    """`diag(c) + diag(1 - c) L`."""
    identity = jnp.eye(weight.shape[-1], dtype=factor.dtype)
    return weight[..., None] * identity + (1 - weight)[..., None] * factor
