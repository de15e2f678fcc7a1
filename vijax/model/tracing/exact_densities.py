"""Prior log densities as functions of the unconstrained value.

The value of a beta or gamma site is rounded to the end of its support long before its unconstrained
value is improbable, if the concentration is small: half of the mass of a Beta(0.01, 0.01) is at
values that float32 does not distinguish from one. Its density at the unconstrained value is
elementary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import betaln, gammaln

from vijax.model.tracing.wrappers import WRAPPERS


def log_prob_at(fn: dist.Distribution, z: Array) -> Array | None:
    """The log density of the value at `z`, elementwise over the batch and without masks.

    `None` for distributions of which it is computed from the value.
    """
    base = fn
    while isinstance(base, WRAPPERS):
        base = base.base_dist  # its parameters broadcast from the right
    if type(base).log_prob is dist.Beta.log_prob:  # subclasses, too
        a, b = base.concentration1, base.concentration0
        below, above = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
        log_prob = (a - 1) * below + (b - 1) * above - betaln(a, b)
    elif type(base).log_prob is dist.Gamma.log_prob:
        a, b = base.concentration, base.rate
        log_prob = a * jnp.log(b) + (a - 1) * z - b * jnp.exp(z) - gammaln(a)
    else:
        return None
    return jnp.sum(log_prob, axis=range(-fn.event_dim, 0)) if fn.event_dim else log_prob
