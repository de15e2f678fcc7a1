"""Values of discrete sites that are drawn, from their numbers and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from vijax.model.tracing.handler import Record, without_masks
from vijax.runtime.errors import ModelError

Site = dict[str, Any]
ENDLESS = 0  # the number of values of a count


def drawn_value(name: str, site: Site, states: Array, least: Array | int = 0) -> Array:
    """The values of a site, whose numbers are recorded beside them.

    Args:
        name: of the site.
        site: its message. A mask on it is dropped, as for sites that are summed out: where it is
            not used, its own prior sums to one.
        states: numbers of values, of the site's shape (rounded, if they are no integers); or
            weights of the values, with one more axis.
        least: of counts, how far above its lowest value the number 0 stands.

    Raises:
        ModelError: the site's values have no numbers.
    """
    values, log_prob = _values(name, site), None
    ndim = len(site["kwargs"].get("sample_shape", ())) + len(site["fn"].shape())
    if values is None:
        states = _rounded(states, None)
        value = states + _lowest(site) + least
    elif states.ndim > ndim:
        value = states @ values.astype(states.dtype)
        log_prob = _between(site["fn"], states, values)
    else:
        states = _rounded(states, values.size)
        value = values[states]
    site["intermediates"] = Record(states, jnp.zeros(()), log_prob)
    site["_masks"] = 0
    return value


def from_drawn_value(name: str, site: Site, value: Array, least: Array | int = 0) -> Array:
    """The value itself, with its number recorded beside it."""
    values = _values(name, site)
    if values is None:
        states = value - _lowest(site) - least
    else:
        states = jnp.argmin(jnp.abs(value[..., None] - values), axis=-1)
    return drawn_value(name, site, states, least)


def _values(name: str, site: Site) -> Array | None:
    """All values of a site `(n,)`, `None` for counts; their number is noted down in the message.

    Raises:
        ModelError: it has several in one row that depend on one another, or they go on both ways.
    """
    base = site["fn"] = without_masks(site["fn"])
    while isinstance(base, (dist.ExpandedDistribution, dist.Independent)):
        base = base.base_dist
    if base.has_enumerate_support and not base.event_shape:
        values = jnp.ravel(base.enumerate_support(expand=False))
        site["_values"] = values.size
        return values
    if base.event_shape or not isinstance(base.support, constraints._IntegerGreaterThan):
        raise ModelError(
            f"site {name!r}: expected a discrete latent of independent entries, each with a finite "
            f"list of values or a count, got {type(base).__name__} over {base.support}. Write it "
            "with Categorical or a count, or sum it out in the model."
        )
    site["_values"] = ENDLESS
    return None


def _between(fn: dist.Distribution, weights: Array, values: Array) -> Array:
    """Log density at weights of the values: the mean of its own at each, which it has no other."""
    shape = weights.shape[:-1]
    each = jax.vmap(lambda value: _entrywise(fn).log_prob(jnp.full(shape, value)))(values)
    terms = jnp.where(weights > 0, weights * jnp.moveaxis(each, 0, -1), 0.0)
    return jnp.sum(terms, axis=range(-1 - fn.event_dim, 0))


def _entrywise(fn: dist.Distribution) -> dist.Distribution:
    """The distribution with entries of an event as rows of their own."""
    if isinstance(fn, dist.Independent):
        return _entrywise(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution) and fn.event_dim:
        return _entrywise(fn.base_dist).expand(fn.batch_shape + fn.event_shape)
    return fn


def _lowest(site: Site) -> Array | int:
    support = site["fn"].support
    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    return support.lower_bound


def _rounded(states: Array, size: int | None) -> Array:
    if jnp.issubdtype(states.dtype, jnp.floating):
        states = jnp.round(states)
    return jnp.clip(states, 0, None if size is None else size - 1).astype(jnp.int32)
