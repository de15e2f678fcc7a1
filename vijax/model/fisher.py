"""The Fisher information of observed sites, as the square root of a matrix.

With a distribution `p(y | z)` the Fisher information is `F = E[g g']` of the score
`g = d log p(y | z) / dz`, for outcomes `y` drawn from `p` itself. It is positive semidefinite and,
for exponential families in their natural parameters, the generalized Gauss-Newton matrix of the
log likelihood (New Insights and Perspectives on the Natural Gradient Method, Martens, 2020). With
the observed outcomes in place of `y` it would be the "empirical Fisher", which is zero where a
model interpolates its data, and is not used here.

A root of it are functions of `z` whose Jacobian `R` has `F = R'R`; `[x]` is a fixed value:

| distribution | functions | `R'R` is |
|---|---|---|
| `Normal`, `LogNormal` | `loc / [scale]` and `sqrt(2) log(scale)` | exact |
| `Bernoulli`, `Poisson`, `Binomial`, `Exponential` | `mean / [sd]` | exact |
| `Categorical`, at most 32 classes | `sqrt([p_k]) log(p_k)` for all classes | exact |
| others | `log p(y_k) / sqrt(32)` for 32 draws | unbiased |
"""

from __future__ import annotations

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
_NORMAL = (dist.Normal, dist.LogNormal)
# one parameter, and a score that is linear in the outcome
_LINEAR = (
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.Poisson,
    dist.BinomialProbs,
    dist.BinomialLogits,
    dist.Exponential,
)
_CLASSES = (dist.CategoricalProbs, dist.CategoricalLogits)


def fisher_root(trace: Trace, key: Array) -> dict[str, Array]:
    """By observed site, functions of the latents whose Jacobian is a root of their information.

    Of shape `(num, *shape)`: the functions of each of the elements of the site that are independent
    given the latents. Plate scales, `scale` and masks are included.

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
    found = _functions(inner, elements, key)
    values = jnp.broadcast_to(found, (len(found), *elements))
    inside = fn.event_dim - inner.event_dim  # axes of the event that are independent
    factor, mask = _expanded(site["scale"], inside), combined_mask(fn)
    if mask is not None:
        factor = factor * _expanded(mask, inside)
    return jnp.where(factor > 0, jnp.sqrt(factor) * values, 0.0)


def _expanded(value: Any, axes: int) -> Any:
    """A number per element of the batch, with axes for those inside of the event."""
    value = jnp.ones(()) if value is None else jnp.asarray(value)
    return value.reshape(*value.shape, *[1] * axes)


def _functions(fn: dist.Distribution, elements: tuple[int, ...], key: Array) -> Array:
    """The functions of a distribution, `(num, *elements)` or what broadcasts to it."""
    if type(fn) in _NORMAL:
        parts = fn.loc / fixed(fn.scale), jnp.sqrt(2.0) * jnp.log(fn.scale)
        return jnp.stack([jnp.broadcast_to(part, elements) for part in parts])
    if isinstance(fn, _LINEAR):
        variance = fixed(fn.variance)
        positive = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
        return jnp.broadcast_to(fn.mean / jnp.sqrt(positive), elements)[None]
    if isinstance(fn, _CLASSES):
        values = jnp.ravel(fn.enumerate_support(expand=False))
        if len(values) <= _MOST_CLASSES:
            log_p = fn.log_prob(values.reshape(-1, *[1] * len(elements)))
            return jnp.exp(0.5 * fixed(log_p)) * log_p
    whole = fn if fn.batch_shape == elements else fn.expand(elements)
    outcomes = fixed(whole.sample(key, (_NUM_DRAWS,)))
    return whole.log_prob(outcomes) / _NUM_DRAWS**0.5


fixed = jax.lax.stop_gradient
