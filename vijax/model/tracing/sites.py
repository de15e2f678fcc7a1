"""The sites of a trace: what kind they are, their values, plates and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.contracts import Plate, PyTree, Site
from vijax.model.tracing.handler import Message, Record, Step
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.errors import ModelError
from vijax.runtime.row_densities import BOUND

Trace = dict[str, Message]
Dims = dict[str, tuple[str | None, ...]]


# ---- kinds of sites


def is_latent(site: Mapping[str, Any]) -> bool:
    """Whether a site is a sample site without a value from the model or a handler inside it."""
    return site["type"] == "sample" and not site["is_observed"] and site["value"] is None


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site of a trace is a discrete latent that is marginalized by enumeration."""
    return "_num_states" in site


def is_sampled(site: Mapping[str, Any]) -> bool:
    """Whether a site is a discrete latent that is sampled by the guide."""
    return "_sampled" in site


def is_data(site: Mapping[str, Any]) -> bool:
    """Whether a site is observed data, not a factor."""
    return site["type"] == "sample" and site["is_observed"] and not is_factor(site)


def is_factor(site: Mapping[str, Any]) -> bool:
    """Whether a site is a `numpyro.factor`, a term of the log density without a value."""
    return site["type"] == "sample" and site["infer"].get("is_auxiliary", False)


def bounds(trace: Trace) -> dict[str, bool]:
    """The sites that are stochastic bounds, and whether they are bounds on a density."""
    return {
        name: site["infer"][BOUND]
        for name, site in trace.items()
        if site["type"] == "sample" and BOUND in site["infer"]
    }


def factors(trace: Trace) -> tuple[str, ...]:
    """The factors of a trace."""
    return tuple(name for name, site in trace.items() if is_factor(site))


def is_subsampled(site: Mapping[str, Any], trace: Trace) -> bool:
    """Whether a site is in a plate with fewer rows in use than its size."""
    return any(plate.size != plate.subsample_size for plate in site_plates(site, trace))


# ---- values


def latents(trace: Trace) -> Iterator[tuple[str, Message, Record]]:
    """The latent sites of a trace, with the records of their unconstrained values."""
    for name, site in trace.items():
        record = site.get("intermediates")
        if isinstance(record, Record) and record.z is not None and not site["is_observed"]:
            yield name, site, record


def latent_values(trace: Trace) -> dict[str, Array]:
    """The values of latent sites and deterministics."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }


def mutable_state(trace: Trace) -> dict[str, PyTree]:
    """The mutable state after a run."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def fixed_value(site: Mapping[str, Any]) -> Array | None:
    """The value of a site whose distribution is a point mass, `None` for others."""
    fn = base_distribution(site["fn"])
    return jnp.broadcast_to(fn.v, site_shape(site)) if isinstance(fn, dist.Delta) else None


def at_step(series: Array, steps: tuple[Step, ...]) -> Array:
    """The slice at the current step of an array with a leading axis for each scan."""
    for step in steps:
        series = series[step.index]
    return series


# ---- plates and shapes


def site_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a sample site's value."""
    return tuple(site["kwargs"].get("sample_shape", ())) + tuple(site["fn"].shape())


def dims(trace: Trace) -> Dims:
    """The plate along each dimension of every site's value, `None` where there is none."""
    return {
        name: _dims(site)
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic")
    }


def all_plates(trace: Trace) -> dict[str, Plate]:
    """The plates around any site, by name.

    Raises:
        ModelError: two have one name and different sizes.
    """
    found: dict[str, Plate] = {}
    for site in trace.values():
        for plate in site_plates(site, trace):
            known = found.setdefault(plate.name, plate)
            if (known.size, known.subsample_size) != (plate.size, plate.subsample_size):
                raise ModelError(
                    f"plate {plate.name!r}: expected one size, got {known.subsample_size} and "
                    f"{plate.subsample_size}. Give different plates different names."
                )
    return found


def site_plates(site: Mapping[str, Any], trace: Trace) -> tuple[Plate, ...]:
    """The plates around a site.

    Raises:
        ModelError: two have one name.
    """
    frames = dict.fromkeys(site.get("cond_indep_stack", ()))  # `do` enters each plate twice
    names = [frame.name for frame in frames]
    for name in names:
        if names.count(name) > 1:
            raise ModelError(
                f"site {site['name']!r}: expected plates of different names around it, got two "
                f"named {name!r}. Rename one of them."
            )
    return tuple(
        Plate(f.name, f.dim, trace[f.name]["args"][0] if f.name in trace else f.size, f.size)
        for f in frames
    )


def plate_scale(trace: Trace, site: Mapping[str, Any]) -> float:
    """Full rows over rows in use, multiplied over the plates of a site."""
    if not site["cond_indep_stack"]:
        return 1.0
    scales = plate_scales(trace)
    names = {frame.name for frame in site["cond_indep_stack"]}
    return math.prod(scale for name, scale in scales.items() if name in names)


def plate_scales(trace: Trace) -> dict[str, float]:
    """Full rows over rows in use, by plate."""
    plates = {name: site["args"] for name, site in trace.items() if site["type"] == "plate"}
    return {name: size / (used or size) for name, (size, used) in plates.items()}


def as_site(name: str, site: Mapping[str, Any], trace: Trace, z: Any) -> Site:
    """The `Site` of a latent site with unconstrained value `z`."""
    return Site(
        name=name,
        shape=tuple(jnp.shape(site["value"])),
        z_shape=tuple(jnp.shape(z)),
        event_dim=len(site["fn"].event_shape),
        plates=site_plates(site, trace),
        cardinality=site.get("_cardinality"),
        init_scale=site["infer"].get("init_scale"),
    )


def _dims(site: Mapping[str, Any]) -> tuple[str | None, ...]:
    ndim = jnp.ndim(site["value"])
    event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
    names: list[str | None] = [None] * ndim
    for frame in site["cond_indep_stack"]:
        axis = ndim - event + frame.dim
        if axis >= 0 and jnp.shape(site["value"])[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)
