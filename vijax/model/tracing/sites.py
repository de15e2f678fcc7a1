"""What a trace says of its sites: their plates, dimensions and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vijax.contracts import Plate, Site
from vijax.model.tracing import run as running
from vijax.runtime.errors import ModelError

Dims = dict[str, tuple[str | None, ...]]


def is_cut(site: Mapping[str, Any], trace: running.Trace) -> bool:
    """Whether a site lives in a plate that is not used in full."""
    return any(plate.size != plate.subsample_size for plate in site_plates(site, trace))


def dims(trace: running.Trace) -> Dims:
    """The plate along each dimension of every site's value, `None` where there is none."""
    return {
        name: _dims(site)
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic")
    }


def is_data(site: Mapping[str, Any]) -> bool:
    """Whether a site is observed data, and not a factor."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    return not site["infer"].get("is_auxiliary", False)


def all_plates(trace: running.Trace) -> dict[str, Plate]:
    """The plates round any site, by name.

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


def site_plates(site: Mapping[str, Any], trace: running.Trace) -> tuple[Plate, ...]:
    """The plates round a site.

    Raises:
        ModelError: two have one name.
    """
    frames = dict.fromkeys(site.get("cond_indep_stack", ()))  # `do` enters each plate twice
    names = [frame.name for frame in frames]
    for name in names:
        if names.count(name) > 1:
            raise ModelError(
                f"site {site['name']!r}: expected plates of different names round it, got two "
                f"called {name!r}. Rename one of them."
            )
    return tuple(
        Plate(f.name, f.dim, trace[f.name]["args"][0] if f.name in trace else f.size, f.size)
        for f in frames
    )


def as_site(name: str, site: Mapping[str, Any], trace: running.Trace, z: Any) -> Site:
    """A latent site whose unconstrained value is `z`."""
    return Site(
        name=name,
        shape=tuple(jnp.shape(site["value"])),
        z_shape=tuple(jnp.shape(z)),
        event_dim=len(site["fn"].event_shape),
        plates=site_plates(site, trace),
        cardinality=site.get("_values"),
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
