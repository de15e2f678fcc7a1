"""The Fisher information of observed sites, as the square root of a matrix.

With a distribution `p(y | z)` the Fisher information is `F = E[g g']` of the score
`g = d log p(y | z) / dz`, for outcomes `y` drawn from `p` itself. It is positive semidefinite and,
for exponential families in their natural parameters, the generalized Gauss-Newton matrix of the
log likelihood (New Insights and Perspectives on the Natural Gradient Method, Martens, 2020). With
the observed outcomes in place of `y` it would be the "empirical Fisher", which is zero where a
model interpolates its data, and is not used here.

The expectation is a weighted sum over outcomes `y_k`, so that the functions
`sqrt(w_k) log p(y_k | z)`, with `y_k` and `w_k` fixed, have a Jacobian `R` with `F = R'R`:

| distribution | outcomes | the sum is |
|---|---|---|
| `Normal` | three points of Gauss-Hermite quadrature | exact, for mean and standard deviation |
| classes, at most 32 | all | exact |
| `Poisson`, `Binomial`, `Exponential` | mean plus and minus the standard deviation | exact |
| others | 32 draws | unbiased |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.handler import combined_mask
from vijax.model.tracing.sites import Trace, is_data
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.precision import full_precision

_MOST_CLASSES, _NUM_DRAWS = 32, 32
_CLASSES = (
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
)
# one parameter, and a score that is linear in the outcome
_LINEAR = (dist.Poisson, dist.BinomialProbs, dist.BinomialLogits, dist.Exponential)


def fisher_root(trace: Trace, key: Array) -> dict[str, Array]:
    """By observed site, functions of the latents whose Jacobian is a root of their information.

    Of shape `(num, *shape)`: outcomes, and the elements of the site that are independent given the
    latents. Plate scales, `scale` and masks are included.

    Args:
        trace: of the model.
        key: randomness of draws.
    """
    found = {}
    for number, (name, site) in enumerate(trace.items()):
        if is_data(site):
            with full_precision():
                found[name] = _root(site, jax.random.fold_in(key, number))
    return found


def _root(site: Mapping[str, Any], key: Array) -> Array:
    fn, inner = site["fn"], base_distribution(site["fn"])
    shape = jnp.broadcast_shapes(jnp.shape(site["value"]), (*fn.batch_shape, *fn.event_shape))
    elements = shape[: len(shape) - inner.event_dim]
    outcomes, weights = _outcomes(inner, shape, elements, key)
    outcomes, weights = jax.lax.stop_gradient((outcomes, weights))
    values = jnp.broadcast_to(inner.log_prob(outcomes), (len(outcomes), *elements))
    inside = fn.event_dim - inner.event_dim  # axes of the event that are independent
    factor, mask = weights * _expanded(site["scale"], inside), combined_mask(fn)
    if mask is not None:
        factor = factor * _expanded(mask, inside)
    values = jnp.where(factor > 0, values, 0.0)
    return jnp.sqrt(factor) * values


def _expanded(value: Any, axes: int) -> Any:
    """A number per element of the batch, with axes for those inside of the event."""
    value = jnp.ones(()) if value is None else jnp.asarray(value)
    return value.reshape(*value.shape, *[1] * axes)


def _outcomes(
    fn: dist.Distribution, shape: tuple[int, ...], elements: tuple[int, ...], key: Array
) -> tuple[Array, Array]:
    """Outcomes `(num, *shape)` and their weights, `(num, *elements)` or `(num, 1, ...)`."""
    ones = [1] * len(elements)
    if type(fn) is dist.Normal:
        points = jnp.array([-math.sqrt(3), 0.0, math.sqrt(3)]).reshape(-1, *ones)
        outcomes = jnp.broadcast_to(fn.loc + points * fn.scale, (3, *shape))
        return outcomes, jnp.array([1 / 6, 2 / 3, 1 / 6]).reshape(-1, *ones)
    if isinstance(fn, _CLASSES):
        values = jnp.ravel(fn.enumerate_support(expand=False))
        if len(values) <= _MOST_CLASSES:
            outcomes = jnp.broadcast_to(values.reshape(-1, *ones), (len(values), *shape))
            return outcomes, jnp.exp(fn.log_prob(outcomes))
    if isinstance(fn, _LINEAR):
        mean, sd = fn.mean, jnp.sqrt(fn.variance)
        outcomes = jnp.stack([jnp.broadcast_to(mean + s * sd, shape) for s in (-1, 1)])
        return outcomes, jnp.full((2, *ones), 0.5)
    extra = len(shape) - len(fn.batch_shape) - fn.event_dim
    whole = fn.expand(elements) if extra or fn.batch_shape != elements else fn
    return whole.sample(key, (_NUM_DRAWS,)), jnp.full((_NUM_DRAWS, *ones), 1 / _NUM_DRAWS)
