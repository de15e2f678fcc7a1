"""What the distribution of an observed site says, at one draw of the latents."""

from __future__ import annotations

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.sites import Trace
from vijax.model.tracing.wrappers import base_distribution

_CLASSES = (
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
)


def observed_moments(trace: Trace, names: Collection[str]) -> dict[str, dict[str, Array]]:
    """Of sites, `{"probs": (*shape, num_values)}` of classes, else `{"value", "mean", "variance"}`.

    The value is the one that was drawn; mean and variance are left out where there is no closed
    form.

    Args:
        trace: of the model.
        names: the sites; others are left out.
    """
    return {
        name: _moments(site["fn"], site["value"])
        for name, site in trace.items()
        if site["type"] == "sample" and name in names
    }


def _moments(fn: dist.Distribution, value: Array) -> dict[str, Array]:
    shape = jnp.shape(value)
    if isinstance(base_distribution(fn), _CLASSES) and not fn.event_shape:
        values = fn.enumerate_support(expand=False)
        log_probs = jax.vmap(lambda value: fn.log_prob(jnp.broadcast_to(value, shape)))(
            jnp.reshape(values, -1)
        )
        return {"probs": jnp.moveaxis(jax.nn.softmax(log_probs, axis=0), 0, -1)}
    try:
        moments = {"mean": fn.mean, "variance": fn.variance}
    except NotImplementedError:
        moments = {}
    found = {name: jnp.broadcast_to(moment, shape) for name, moment in moments.items()}
    return {"value": value} | found
