"""Masks of marginalized discrete sites.

Where the mask of a discrete site is false, its prior is replaced by one: each of its values then
has the same weight, which is what the model says if another term counts the prior, as a factor or
an observation does. In the steps that pad a short series nothing else depends on the site, and the
sum over its values would multiply the evidence by their number; there its prior remains, which
sums to one, so that the evidence is that of the series alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.discrete.elimination import FirstStep
from vijax.model.discrete.enumeration import EnumerationPlan
from vijax.model.discrete.factors import Factor, Name, align
from vijax.model.tracing.handler import Loop
from vijax.model.tracing.log_densities import elementwise, site_mask
from vijax.model.tracing.sites import Trace
from vijax.runtime.jaxpr import dependencies


def site_masks(trace: Trace, plan: EnumerationPlan) -> dict[str, Array]:
    """The masks of the sites that depend on discrete sites, shaped like their log density."""
    found = {name: site_mask(trace[name]) for name in plan.specs}
    return {
        name: jnp.broadcast_to(mask, jnp.shape(elementwise(trace[name])))
        for name, mask in found.items()
        if mask is not None
    }


def padding_sites(
    masks: Callable[..., dict[str, Array]], inputs: Any, plan: EnumerationPlan, data: Any
) -> frozenset[str]:
    """The masked discrete sites on which only masked sites depend.

    A mask that depends on latent sites does not count as one: there the density is that of the
    mask, whether the site is used or not.

    Args:
        masks: the masks as a function of the values of latent sites and of the data.
        inputs: values of the latent sites, a dictionary.
        plan: the enumeration.
        data: abstract arrays.
    """
    closed, shapes = jax.make_jaxpr(masks, return_shape=True)(inputs, data)
    num_inputs = len(jax.tree.leaves(inputs))
    labels = [frozenset({("latent", 0)})] * num_inputs
    labels += [frozenset()] * (len(closed.jaxpr.invars) - num_inputs)
    found = zip(sorted(shapes), dependencies(closed.jaxpr, labels), strict=True)
    constant = {name for name, parents in found if not parents}
    return frozenset(
        name
        for name in plan.variables
        if name in constant and all(user in constant for user in _users(name, plan))
    )


def with_masks(
    factors: Mapping[Any, Factor],
    masks: Mapping[str, Array],
    padding: frozenset[str],
    plan: EnumerationPlan,
) -> dict[Any, Factor]:
    """The factors with the masks of the sites in `padding`, where these are used."""
    out = dict(factors)
    for name in sorted(padding):
        scope = plan.variables[name].scope
        mask = _mask_factor(name, masks, plan)
        uses = [use for user in _users(name, plan) for use in _uses(name, user, masks, plan)]
        names = tuple(dim for dim in plan.variables[name].dims if dim in scope)
        used = [align(_any_outside(use, scope), names) for use in uses]
        applied = functools.reduce(jnp.logical_or, used, jnp.array(False))
        kept = Factor(names, align(_any_outside(mask, scope), names) | ~applied)
        for prior, steps in ((name, slice(1, None)), (FirstStep(name), 0)):
            if prior in factors:
                out[prior] = _masked(factors[prior], kept, plan.variables[name].loop, steps)
    return out


def _masked(prior: Factor, kept: Factor, loop: Loop | None, steps: int | slice) -> Factor:
    """A factor, one where it is not kept at some steps of a loop."""
    names, log = kept
    if loop is not None:
        index = tuple(steps if name == loop else slice(None) for name in names)
        names = tuple(name for name in names if name != loop or steps != 0)
        log = log[index]
    return prior._replace(log=jnp.where(align(Factor(names, log), prior.names), prior.log, 0.0))


def _uses(
    name: str, user: str, masks: Mapping[str, Array], plan: EnumerationPlan
) -> Iterator[Factor]:
    """Where a site depends on the states of a discrete site, along the rows of both."""
    spec, mask = plan.specs[user], _mask_factor(user, masks, plan)
    if name in spec.current:
        yield mask
    loops = [dim for dim in mask.names if isinstance(dim, Loop)]
    if name in spec.previous:  # at the next step
        axis = mask.names.index(loops[0])
        later = jax.lax.slice_in_dim(mask.log, 1, None, axis=axis)
        last = jnp.zeros_like(jax.lax.slice_in_dim(mask.log, 0, 1, axis=axis))
        yield mask._replace(log=jnp.concatenate([later, last], axis))
    if _started_by(name, plan) & set(spec.previous):
        rest = tuple(dim for dim in mask.names if dim != loops[0])
        yield Factor(rest, jnp.take(mask.log, 0, axis=mask.names.index(loops[0])))


def _mask_factor(site: str, masks: Mapping[str, Array], plan: EnumerationPlan) -> Factor:
    """A mask along the plates and the loop of a site, in the order of the steps."""
    dims, mask = plan.specs[site].dims, masks[site]
    for axis, dim in enumerate(dims):
        if isinstance(dim, Loop) and dim.reverse:
            mask = jnp.flip(mask, axis)
    unnamed = [axis for axis, dim in enumerate(dims) if dim is None]
    return Factor(tuple(dim for dim in dims if dim is not None), jnp.any(mask, axis=unnamed))


def _any_outside(mask: Factor, scope: frozenset[Name]) -> Factor:
    """Whether a mask is true in any row of the plates that are not in `scope`."""
    axes = [axis for axis, dim in enumerate(mask.names) if dim not in scope]
    return Factor(tuple(dim for dim in mask.names if dim in scope), jnp.any(mask.log, axis=axes))


def _users(name: str, plan: EnumerationPlan) -> list[str]:
    """The other sites that depend on a discrete site."""
    states = _started_by(name, plan)
    return [
        site
        for site, spec in plan.specs.items()
        if (name in spec.current and site != name)
        or name in spec.previous
        or states & set(spec.previous)
    ]


def _started_by(name: str, plan: EnumerationPlan) -> set[str]:
    """The discrete sites in a scan of which this one is the state before the first step."""
    return {state for state, variable in plan.variables.items() if variable.initial == name}
