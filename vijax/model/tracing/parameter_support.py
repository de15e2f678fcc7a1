"""Parameters outside of their support, at which a log density is finite nevertheless.

NumPyro does not validate parameters that depend on latents. Most log densities are NaN where these
are invalid. Those with a gamma function are finite at negative concentrations, for instance of a
beta distribution given by a mean and a standard deviation that is too large for it; that region
would count as part of the posterior.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.wrappers import base_distribution

_PARAMETERS: dict[type[dist.Distribution], tuple[str, ...]] = {
    dist.Beta: ("concentration1", "concentration0"),
    dist.BetaBinomial: ("concentration1", "concentration0"),
    dist.Gamma: ("concentration", "rate"),
    dist.InverseGamma: ("concentration", "rate"),
    dist.GammaPoisson: ("concentration", "rate"),
    dist.NegativeBinomialProbs: ("total_count",),
    dist.NegativeBinomialLogits: ("total_count",),
    dist.Dirichlet: ("concentration",),
    dist.DirichletMultinomial: ("concentration",),
}


def valid_parameters(fn: dist.Distribution) -> Array | None:
    """Whether parameters are positive, elementwise over the batch; `None` where that is certain.

    Args:
        fn: the distribution of a site.
    """
    base = base_distribution(fn)
    family = next((cls for cls in type(base).__mro__ if cls in _PARAMETERS), None)
    if family is None:
        return None
    values = [getattr(base, name) for name in _PARAMETERS[family]]
    # others have been validated by NumPyro
    tests = [value > 0 for value in values if isinstance(value, jax.core.Tracer)]
    if not tests:
        return None
    valid = functools.reduce(jnp.logical_and, tests)
    if base.event_dim:
        valid = jnp.all(valid, axis=-1)
    num_event = fn.event_dim - base.event_dim  # batch dimensions that wrappers made events
    if not num_event:
        return valid
    shape = fn.batch_shape + fn.event_shape[:num_event]
    valid = jnp.broadcast_to(valid, jnp.broadcast_shapes(valid.shape, shape))
    return jnp.all(valid, axis=tuple(range(-num_event, 0)))
