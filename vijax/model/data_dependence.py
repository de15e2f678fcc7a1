"""Which of a model's arrays a result depends on, found in the traced program, nothing computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from vijax.contracts import Batch, DensityGuide, Guide, PyTree, Space, Target, Variables
from vijax.model import Arguments
from vijax.runtime.jaxpr import used_inputs


def needed_arrays(
    target: Target, guide: Guide, variables: Variables, mutable: dict[str, PyTree], batch: Batch
) -> frozenset[str]:
    """The arrays without which latent sites cannot be drawn, or their density not be taken.

    A support may depend on the data, as that of `Uniform(0, y.max())`, and so may a guide.
    """

    def draw_and_density(data: dict[str, Any], key: Any, variables: Variables) -> Any:
        known = batch._replace(data=data)
        state = (known, variables.model, mutable)
        z = guide.draw(variables.guide, target.space, key, known).z
        everything = target.constrain(z, *state)
        values = {name: everything[name] for name in target.space.names}
        out: list[Any] = [z, values, target.constrain_params(variables.model, known, mutable)]
        if isinstance(guide, DensityGuide):
            out += [target.unconstrain(values, *state), target.log_dets(z, *state)]
            out += [guide.log_prob(variables.guide, target.space, z, known)]
        return out

    jaxpr = jax.make_jaxpr(draw_and_density)(batch.data, jax.random.key(0), variables).jaxpr
    return _used(jaxpr, sorted(batch.data), [True] * len(jaxpr.outvars))


def unknown_without(
    target: Target,
    batch: Batch,
    variables: Variables,
    mutable: dict[str, PyTree],
    missing: tuple[str, ...],
) -> frozenset[str]:
    """The sites and deterministics that cannot be computed without some arrays."""
    if not missing:
        return frozenset()
    z = abstract_position(target.space)

    def values(data: dict[str, Any], z: Any, variables: Variables) -> dict[str, Any]:
        return target.constrain(z, batch._replace(data=data), variables.model, mutable)

    closed, shapes = jax.make_jaxpr(values, return_shape=True)(batch.data, z, variables)
    names, arrays = sorted(shapes), sorted(batch.data)  # dicts are laid out by key
    return frozenset(
        name
        for name in names
        if set(missing) & _used(closed.jaxpr, arrays, [name == other for other in names])
    )


def standing_in(batch: Batch, arguments: Arguments, missing: Iterable[str]) -> Batch:
    """The data with zeros, which take no memory, for arrays that are not there."""
    empty = {name: arguments.placeholder(name) for name in missing}
    return batch._replace(data=batch.data | empty)


def abstract_position(space: Space) -> dict[str, jax.ShapeDtypeStruct]:
    """A position without its values."""
    dtype = jnp.result_type(float)
    return {site.name: jax.ShapeDtypeStruct(site.z_shape, dtype) for site in space.sites}


def direct_arrays(target: Target, batch: Batch) -> frozenset[str]:
    """The arrays that are themselves the values of observed sites, unchanged."""

    def observations(data: dict[str, Any]) -> dict[str, Any]:
        return target.observations(batch._replace(data=data), {}, {})

    jaxpr = jax.make_jaxpr(observations)(batch.data).jaxpr
    return frozenset(
        name
        for name, var in zip(sorted(batch.data), jaxpr.invars, strict=True)
        if any(var is out for out in jaxpr.outvars)
    )


def _used(jaxpr: Any, names: list[str], wanted: list[bool]) -> frozenset[str]:
    """Which of the first inputs, called `names`, the wanted outputs depend on."""
    inputs = used_inputs(jaxpr, wanted)
    return frozenset(name for name, used in zip(names, inputs, strict=False) if used)
