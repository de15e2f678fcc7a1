"""Many small sites with distributions of one kind, whose log densities are evaluated together.

A model may sample a thousand scalars in a loop. Tracing and compiling take milliseconds for every
site; one density of a thousand stacked values takes as long as that of one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.tracing.handler import Message, Record, count_masks
from vijax.model.tracing.parameter_support import valid_parameters
from vijax.model.tracing.sites import Trace, is_enumerated, is_sampled
from vijax.runtime.precision import full_precision
from vijax.runtime.stacks import MANY, SMALL, stack


def alike_sites(trace: Trace) -> tuple[list[list[Message]], Trace]:
    """Groups of sites that differ in their numbers only, and the trace without these."""
    found: dict[Hashable, list[Message]] = {}
    if len(trace) < MANY:
        return [], trace
    for site in trace.values():
        kind = _kind(site)
        if kind is not None:
            found.setdefault(kind, []).append(site)
    groups = [sites for sites in found.values() if len(sites) >= MANY]
    grouped = {site["name"] for sites in groups for site in sites}
    return groups, {name: site for name, site in trace.items() if name not in grouped}


def stacked_log_prob(sites: list[Message], known: dict[Hashable, Array]) -> Array:
    """The sum of the log densities of sites that are alike.

    Args:
        sites: a group of `alike_sites`.
        known: stacks of the groups of a trace, by their parts. Values of one group are often
            parameters of another, and gradients of a shared stack are added at once.
    """
    leaves = [jax.tree.leaves((site["fn"], site["value"])) for site in sites]
    treedef = jax.tree.structure((sites[0]["fn"], sites[0]["value"]))
    pairs = [_stack(parts, known) for parts in zip(*leaves, strict=True)]
    stacked, axes = zip(*pairs, strict=True)

    def log_prob(*parts: Array) -> Array:
        fn, value = jax.tree.unflatten(treedef, parts)
        found, valid = fn.log_prob(value), valid_parameters(fn)
        return jnp.sum(found if valid is None else jnp.where(valid, found, -jnp.inf))

    with full_precision():
        return jnp.sum(jax.vmap(log_prob, in_axes=axes, axis_size=len(sites))(*stacked))


def _stack(leaves: tuple[Any, ...], known: dict[Hashable, Array]) -> tuple[Any, int | None]:
    """The leaves of all sites as one array; the first alone if it is that of all."""
    if all(leaf is leaves[0] for leaf in leaves):
        return leaves[0], None
    parts = tuple(map(id, leaves))
    if parts not in known:
        known[parts] = stack(leaves)
    return known[parts], 0


def _kind(site: Mapping[str, Any]) -> Hashable | None:
    """What sites that are alike have in common; `None` for a site that is evaluated by itself."""
    if site["type"] != "sample" or site["scale"] is not None:
        return None
    record, fn = site.get("intermediates"), site["fn"]
    if isinstance(record, Record) and record.log_prob is not None:
        return None
    if is_enumerated(site) or is_sampled(site) or count_masks(fn):
        return None
    leaves, treedef = jax.tree.flatten((fn, site["value"]))
    shapes = []
    for leaf in leaves:
        if not isinstance(leaf, (Array, np.ndarray, np.generic, float, int)):
            return None
        if np.size(leaf) > SMALL or jnp.iscomplexobj(leaf):
            return None
        aval = jax.typeof(leaf)
        shapes.append((aval.shape, aval.dtype, aval.weak_type))
    kind = (type(fn), treedef, tuple(shapes))
    try:
        hash(kind)
    except TypeError:  # a parameter that is part of the structure
        return None
    return kind
