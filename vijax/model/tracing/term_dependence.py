"""What each term of a log density depends on, read off the traced program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate, Position, Space, TermInfo, Terms
from vijax.model.tracing import run as running
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.sites import site_plates
from vijax.runtime.jaxpr import dependencies


def volume(name: str) -> str:
    """What the log Jacobian of a site is called among the terms."""
    return f"log |d{name}|"


def term_plates(trace: running.Trace) -> dict[str, tuple[Plate, ...]]:
    """The plates that each term has a dimension for; log Jacobians have none."""
    names = [name for name, site in trace.items() if site["type"] == "sample"]
    return {name: site_plates(trace[name], trace) for name in names}


def term_info(
    terms: Callable[..., Terms],
    arguments: Arguments,
    space: Space,
    plates: Mapping[str, tuple[Plate, ...]],
    centered: frozenset[str],
) -> dict[str, TermInfo]:
    """The plates of the terms, whose priors they are, and the sites that they depend on.

    Args:
        terms: as `Target.terms`.
        arguments: of the model.
        space: whose sites are looked for.
        plates: see `term_plates`.
        centered: sites that `batch.centering` names: all that their values enter depends on the
            location and scale of their priors as well.
    """
    z = {
        site.name: jax.ShapeDtypeStruct(
            site.z_shape, jnp.result_type(float) if site.cardinality is None else np.int32
        )
        for site in space.sites
    }

    def values(
        z: Position, centering: dict[str, Array], data: dict[str, Array]
    ) -> dict[str, Array]:
        return terms(z, Batch(data, centering=centering), {}, {}).values

    closed, shapes = jax.make_jaxpr(values, return_shape=True)(
        z, {name: z[name] for name in centered}, arguments.abstract()
    )
    labels = [frozenset({(name, 0)}) for name in sorted(z)]  # as a dict is laid out
    labels += [frozenset()] * (len(closed.jaxpr.invars) - len(labels))
    found = zip(sorted(shapes), dependencies(closed.jaxpr, labels), strict=True)
    owners = {one: site for site in space.names for one in (site, volume(site))}
    return {
        name: TermInfo(
            plates.get(name, ()), frozenset(label for label, _ in line), owners.get(name)
        )
        for name, line in found
    }
