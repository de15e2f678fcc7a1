"""Centring: coordinates in which a hierarchical site depends less on its own location and scale.

A site `x ~ LocationScale(loc, scale)` whose scale is itself latent makes a funnel: where the scale
is small, so is `x`. In the coordinate `w`, with weights `c` between 0 (non-centred) and 1 (the
model's own, centred),

    x = loc + scale^(1 - c) (w - c loc),    log |dx/dw| = (1 - c) log scale.

A prior that dominates its data wants `c = 0`, data that dominate the prior want `c = 1`, and in
between the best `c` is the share of the information on `x` that comes from the data. Sources:
A general framework for the parametrization of hierarchical models, Papaspiliopoulos, Roberts,
Skold, 2007; Automatic reparameterisation of probabilistic programs, Gorinova, Moore, Hoffman, 2020.
"""

from __future__ import annotations

import numpyro.distributions as dist
from jax import Array
from jax import numpy as jnp

# All on the real line, with parameters `loc` and `scale`; the last one after a logarithm.
_FAMILIES = {dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel}
_FAMILIES |= {dist.LogNormal}


def location_scale(fn: dist.Distribution) -> tuple[Array, Array] | None:
    """Location and scale of the unconstrained value of a site, `None` for any other family.

    Both broadcast against the site's shape.
    """
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist  # its parameters broadcast from the right in each case
    if type(fn) in _FAMILIES:
        return jnp.asarray(fn.loc), jnp.asarray(fn.scale)
    return None


def place(w: Array, weight: Array, loc: Array, scale: Array) -> tuple[Array, Array]:
    """The unconstrained value at coordinate `w`, and the summed `log |dz/dw|`."""
    log_stretch = (1 - weight) * jnp.log(scale)
    z = loc + jnp.exp(log_stretch) * (w - weight * loc)
    return z, jnp.sum(jnp.broadcast_to(log_stretch, jnp.shape(w)))


def coordinate(z: Array, weight: Array, loc: Array, scale: Array) -> Array:
    """The inverse of `place`."""
    return weight * loc + (z - loc) * jnp.exp((weight - 1) * jnp.log(scale))
