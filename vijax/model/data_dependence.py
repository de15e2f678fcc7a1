"""The dependence of a model's quantities on its arrays, from traced programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from vijax.contracts import Batch, DensityGuide, Guide, PyTree, Space, Target, Variables
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.jaxpr import used_inputs


def required_arrays(
    target: Target, guide: Guide, variables: Variables, mutable: dict[str, PyTree], batch: Batch
) -> frozenset[str]:
    """The arrays that draws of latent sites or their log density depend on.

    A support may depend on the data, as that of `Uniform(0, y.max())`, and so may a guide.
    """

    def draw_and_density(data: dict[str, Any], key: Any, variables: Variables) -> Any:
        traced = batch._replace(data=data)
        state = (traced, variables.model, mutable)
        z = guide.draw(variables.guide, target.space, key, traced).z
        constrained = target.constrain(z, *state)
        values = {name: constrained[name] for name in target.space.names}
        out: list[Any] = [z, values, target.constrain_params(variables.model, traced, mutable)]
        if isinstance(guide, DensityGuide):
            out += [target.unconstrain(values, *state), target.log_dets(z, *state)]
            out += [guide.log_prob(variables.guide, target.space, z, traced)]
        return out

    jaxpr = jax.make_jaxpr(draw_and_density)(batch.data, jax.random.key(0), variables).jaxpr
    return _used(jaxpr, sorted(batch.data), [True] * len(jaxpr.outvars))


def density_arrays(
    target: Target, batch: Batch, model: dict[str, PyTree], mutable: dict[str, PyTree]
) -> frozenset[str]:
    """The arrays that the log density depends on."""

    def log_density(data: dict[str, Any], z: Any) -> Any:
        return target.log_density(z, batch._replace(data=data), model, mutable)

    jaxpr = jax.make_jaxpr(log_density)(batch.data, abstract_position(target.space)).jaxpr
    return _used(jaxpr, sorted(batch.data), [True])


def dependent_sites(
    target: Target,
    batch: Batch,
    variables: Variables,
    mutable: dict[str, PyTree],
    arrays: tuple[str, ...],
) -> frozenset[str]:
    """The latent sites and deterministics whose values depend on some of these arrays."""
    if not arrays:
        return frozenset()
    z = abstract_position(target.space)

    def values(data: dict[str, Any], z: Any, variables: Variables) -> dict[str, Any]:
        return target.constrain(z, batch._replace(data=data), variables.model, mutable)

    closed, shapes = jax.make_jaxpr(values, return_shape=True)(batch.data, z, variables)
    names, inputs = sorted(shapes), sorted(batch.data)  # the leaf order of dicts
    return frozenset(
        name
        for name in names
        if set(arrays) & _used(closed.jaxpr, inputs, [name == other for other in names])
    )


def with_placeholders(batch: Batch, arguments: Arguments, missing: Iterable[str]) -> Batch:
    """The data with zeros, which take no memory, for missing arrays."""
    placeholders = {name: arguments.placeholder(name) for name in missing}
    return batch._replace(data=batch.data | placeholders)


def abstract_position(space: Space) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a position."""
    dtype = jnp.result_type(float)
    return {site.name: jax.ShapeDtypeStruct(site.z_shape, dtype) for site in space.sites}


def observed_arrays(target: Target, batch: Batch) -> frozenset[str]:
    """The arrays that are the unchanged values of observed sites."""

    def observations(data: dict[str, Any]) -> dict[str, Any]:
        return target.observations(batch._replace(data=data), {}, {})

    jaxpr = jax.make_jaxpr(observations)(batch.data).jaxpr
    return frozenset(
        name
        for name, var in zip(sorted(batch.data), jaxpr.invars, strict=True)
        if any(var is out for out in jaxpr.outvars)
    )


def _used(jaxpr: Any, names: list[str], wanted: list[bool]) -> frozenset[str]:
    """The inputs that the wanted outputs depend on, among the first ones with these `names`."""
    inputs = used_inputs(jaxpr, wanted)
    return frozenset(name for name, used in zip(names, inputs, strict=False) if used)
