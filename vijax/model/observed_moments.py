"""What the distribution of an observed site says, at one draw of the latents."""

from __future__ import annotations

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.sites import Trace
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.errors import ModelError

_CLASSES = (
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
)


def observed_moments(trace: Trace, names: Collection[str]) -> dict[str, dict[str, Array]]:
    """Of sites, `{"probs": (*shape, num_values)}` of classes, else `{"mean", "variance"}`.

    Args:
        trace: of the model.
        names: the sites; others are left out.

    Raises:
        ModelError: a distribution has no mean and variance in closed form.
    """
    return {
        name: _moments(name, site["fn"], jnp.shape(site["value"]))
        for name, site in trace.items()
        if site["type"] == "sample" and name in names
    }


def _moments(name: str, fn: dist.Distribution, shape: tuple[int, ...]) -> dict[str, Array]:
    if isinstance(base_distribution(fn), _CLASSES) and not fn.event_shape:
        values = fn.enumerate_support(expand=False)
        log_probs = jax.vmap(lambda value: fn.log_prob(jnp.broadcast_to(value, shape)))(
            jnp.reshape(values, -1)
        )
        return {"probs": jnp.moveaxis(jax.nn.softmax(log_probs, axis=0), 0, -1)}
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:
        raise ModelError(
            f"site {name!r}: expected a distribution with a mean and a variance, got "
            f"{type(base_distribution(fn)).__name__}. Use draws of posterior.predict instead."
        ) from None
    return {"mean": jnp.broadcast_to(mean, shape), "variance": jnp.broadcast_to(variance, shape)}
