"""The latent sites that each term of a log density depends on, from its jaxpr."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Plate, Position, Space, TermInfo, Terms
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.sites import Trace, site_plates
from vijax.runtime.jaxpr import dependencies


def log_jacobian_name(name: str) -> str:
    """The name of the log Jacobian of a site among the terms."""
    return f"log |d{name}|"


def term_plates(trace: Trace) -> dict[str, tuple[Plate, ...]]:
    """The plates of each term by name; log Jacobians have none."""
    names = [name for name, site in trace.items() if site["type"] == "sample"]
    return {name: site_plates(trace[name], trace) for name in names}


def term_info(
    terms: Callable[..., Terms],
    arguments: Arguments,
    space: Space,
    plates: Mapping[str, tuple[Plate, ...]],
    centered: frozenset[str],
) -> dict[str, TermInfo]:
    """The plates of the terms, the sites whose priors they are, and their parents.

    Args:
        terms: as `Target.terms`.
        arguments: of the model.
        space: of the possible parents.
        plates: see `term_plates`.
        centered: sites in `batch.centering`: terms that depend on their values also depend on the
            locations and scales of their priors.
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
    labels = [frozenset({(name, 0)}) for name in sorted(z)]  # the leaf order of a dict
    labels += [frozenset()] * (len(closed.jaxpr.invars) - len(labels))
    found = zip(sorted(shapes), dependencies(closed.jaxpr, labels), strict=True)
    owners = {one: site for site in space.names for one in (site, log_jacobian_name(site))}
    return {
        name: TermInfo(
            plates.get(name, ()), frozenset(label for label, _ in parents), owners.get(name)
        )
        for name, parents in found
    }
