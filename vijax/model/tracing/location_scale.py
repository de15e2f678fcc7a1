"""Partially centered parameterizations of hierarchical sites.

A site `x ~ LocationScale(loc, scale)` with a latent scale has a funnel-shaped prior. Its partially
centered coordinate `w`, with weights `c` between 0 (non-centered) and 1 (centered, as in the
model), is defined by

    x = loc + scale^(1 - c) (w - c loc),    log |dx/dw| = (1 - c) log scale,

and where the scale is a Cholesky factor `L`, with `M = diag(c) + diag(1 - c) L`,

    x = loc + M (w - c loc),    log |dx/dw| = sum log diag(M).

Use `c = 0` where the prior dominates and `c = 1` where the data dominate; in between, the best `c`
is the fraction of the information on `x` that comes from the data. Sources:
A general framework for the parametrization of hierarchical models, Papaspiliopoulos, Roberts,
Skold, 2007; Automatic reparameterization of probabilistic programs, Gorinova, Moore, Hoffman, 2020.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.model.tracing.wrappers import base_distribution

# All on the real line with parameters `loc` and `scale`, LogNormal after a logarithm.
FAMILIES = {dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel}
FAMILIES |= {dist.LogNormal}
_JOINT = {dist.MultivariateNormal, dist.MultivariateStudentT}


class LocationScale(NamedTuple):
    """Location and scale of the prior of a site's unconstrained value.

    Attributes:
        loc: location, broadcasts against the site's shape.
        scale: likewise, elementwise; a lower triangular factor `(..., n, n)` if `joint`.
        joint: whether coordinates are dependent.
    """

    loc: Array
    scale: Array
    joint: bool


def parameters(fn: dist.Distribution) -> tuple[Any, Any, bool] | None:
    """Location and scale as the model has them, and whether coordinates are dependent.

    `None` for a distribution that is not of a location-scale family.
    """
    fn = base_distribution(fn)
    if type(fn) in FAMILIES:
        return fn.loc, fn.scale, False
    if type(fn) in _JOINT:
        return fn.loc, fn.scale_tril, True
    return None


def location_scale(fn: dist.Distribution) -> LocationScale | None:
    """Location and scale of a distribution, `None` if it is not of a location-scale family."""
    found = parameters(fn)
    if found is None:
        return None
    loc, scale, joint = found
    return LocationScale(jnp.asarray(loc), jnp.asarray(scale), joint)


def from_partially_centered(w: Array, weight: Array, prior: LocationScale) -> tuple[Array, Array]:
    """The unconstrained value at partially centered `w`, and the summed `log |dz/dw|`."""
    offset = w - weight * prior.loc
    if prior.joint:
        matrix = _matrix(weight, prior.scale)
        log_scale = jnp.log(jnp.diagonal(matrix, axis1=-2, axis2=-1))
        z = prior.loc + (matrix @ offset[..., None])[..., 0]
    else:
        log_scale = (1 - weight) * jnp.log(prior.scale)
        z = prior.loc + jnp.exp(log_scale) * offset
    return z, jnp.sum(jnp.broadcast_to(log_scale, jnp.shape(w)))


def to_partially_centered(z: Array, weight: Array, prior: LocationScale) -> Array:
    """The inverse of `from_partially_centered`."""
    offset = z - prior.loc
    if prior.joint:
        matrix = jnp.broadcast_to(_matrix(weight, prior.scale), (*z.shape, z.shape[-1]))
        shift = solve_triangular(matrix, offset[..., None], lower=True)[..., 0]
    else:
        shift = offset * jnp.exp((weight - 1) * jnp.log(prior.scale))
    return weight * prior.loc + shift


def log_prior_sd(weight: Array, prior: LocationScale) -> Array:
    """Log conditional standard deviation of a normal prior, by coordinate, shaped like `w`."""
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
