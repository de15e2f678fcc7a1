"""Values of discrete sites sampled by the guide, from their indices and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from vijax.model.tracing.handler import Message, Record, without_masks
from vijax.runtime.errors import ModelError

COUNTABLY_INFINITE = 0  # cardinality of a count


def value_at_index(name: str, site: Message, states: Array, lower_bound: Array | int = 0) -> Array:
    """The values of a site at indices; records the indices.

    Args:
        name: of the site.
        site: its message. Its masks are dropped, as for marginalized sites: where a masked site is
            not used, its prior sums to one.
        states: indices of values, of the site's shape (rounded if they are not integers); or
            weights of the values, with one more axis.
        lower_bound: for counts, the distance of index 0 from the lower end of the support.

    Raises:
        ModelError: the values of the site cannot be indexed.
    """
    values, log_prob = _values(name, site), None
    ndim = len(site["kwargs"].get("sample_shape", ())) + len(site["fn"].shape())
    if values is None:
        states = _rounded(states, None)
        value = states + _support_start(site) + lower_bound
    elif states.ndim > ndim:
        value = states @ values.astype(states.dtype)
        log_prob = _weighted_log_prob(site["fn"], states, values)
    else:
        states = _rounded(states, values.size)
        value = values[states]
    site["intermediates"] = Record(states, jnp.zeros(()), log_prob)
    site["_num_masks"] = 0
    return value


def with_index(name: str, site: Message, value: Array, lower_bound: Array | int = 0) -> Array:
    """A value itself; records its index."""
    values = _values(name, site)
    if values is None:
        states = value - _support_start(site) - lower_bound
    else:
        states = jnp.argmin(jnp.abs(value[..., None] - values), axis=-1)
    return value_at_index(name, site, states, lower_bound)


def _values(name: str, site: Message) -> Array | None:
    """All values of a site `(n,)`, `None` for counts; stores the cardinality in the message.

    Raises:
        ModelError: entries of an event are dependent, or the support is unbounded below.
    """
    base = site["fn"] = without_masks(site["fn"])
    while isinstance(base, (dist.ExpandedDistribution, dist.Independent)):
        base = base.base_dist
    if base.has_enumerate_support and not base.event_shape:
        values = jnp.ravel(base.enumerate_support(expand=False))
        site["_cardinality"] = values.size
        return values
    if base.event_shape or not isinstance(base.support, constraints._IntegerGreaterThan):
        raise ModelError(
            f"site {name!r}: expected a discrete latent of independent entries, each with a finite "
            f"list of values or a count, got {type(base).__name__} over {base.support}. Write it "
            "with Categorical or a count, or marginalize it in the model."
        )
    site["_cardinality"] = COUNTABLY_INFINITE
    return None


def _weighted_log_prob(fn: dist.Distribution, weights: Array, values: Array) -> Array:
    """Log density at weights of the values: the weighted mean of that at each value."""
    shape = weights.shape[:-1]
    each = jax.vmap(lambda value: _entrywise(fn).log_prob(jnp.full(shape, value)))(values)
    terms = jnp.where(weights > 0, weights * jnp.moveaxis(each, 0, -1), 0.0)
    return jnp.sum(terms, axis=range(-1 - fn.event_dim, 0))


def _entrywise(fn: dist.Distribution) -> dist.Distribution:
    """The distribution with event dimensions as batch dimensions."""
    if isinstance(fn, dist.Independent):
        return _entrywise(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution) and fn.event_dim:
        return _entrywise(fn.base_dist).expand(fn.batch_shape + fn.event_shape)
    return fn


def _support_start(site: Message) -> Array | int:
    support = site["fn"].support
    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    return support.lower_bound


def _rounded(states: Array, size: int | None) -> Array:
    if jnp.issubdtype(states.dtype, jnp.floating):
        states = jnp.round(states)
    return jnp.clip(states, 0, None if size is None else size - 1).astype(jnp.int32)
