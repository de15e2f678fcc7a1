"""Runs a model function once, each latent site at the value that a sampler has for it.

A site asks where its value comes from at the moment it is reached, with its distribution as the
model made it at this point. A support that depends on other latents, inside `ImproperUniform` or a
`scan` too, is thus always the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers

from vijax.contracts import PyTree
from vijax.model.tracing.checks import check_observed
from vijax.model.tracing.handler import Sources, Step, Values
from vijax.model.tracing.params import constrain_param
from vijax.model.tracing.validation import known_arguments

Site = dict[str, Any]
Trace = dict[str, Site]
Sampler = Callable[[str, Site, tuple[Step, ...]], Any]
Drawn = frozenset[str] | Literal["all"]


def run(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    sampler: Sampler,
    params: Mapping[str, PyTree] | None = None,
    mutable: Mapping[str, PyTree] | None = None,
    index: Mapping[str, Array] | None = None,
    full: Mapping[str, int] | None = None,
    scored: bool = True,
    apart: frozenset[int] = frozenset(),
    first: bool = False,
    drawn: Drawn = frozenset(),
) -> Trace:
    """The model's trace, with `sampler` deciding the values of its sample sites.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        key: feeds sites left to sample and `numpyro.prng_key`.
        sampler: `(name, site, steps) -> value`, `None` to leave the site alone.
        params: `param` sites in unconstrained space; those missing take the model's start value.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
        full: their full sizes, where the model is given the rows in use only.
        scored: whether the log density will be read off the trace.
        apart: scans of whose steps the trace has but some, each seen for itself.
        first: whether that is the first step, or all others.
        drawn: discrete sites that are latents like any other, not summed out.
    """

    def sample(name: str, site: Site, steps: tuple[Step, ...]) -> Any:
        if is_latent(site) and site["fn"].is_discrete and (drawn == "all" or name in drawn):
            site["_drawn"] = True
        return sampler(name, site, steps)

    def param(name: str, site: Site) -> PyTree | None:
        return constrain_param(params[name], site) if params and name in params else None

    sources = Sources(
        sample, param, mutable or {}, index or {}, full or {}, scored, apart=apart, first=first
    )
    # seed outside: sites that have a value need no key, and no split is traced
    seeded = handlers.seed(Values(model, sources), key)
    with known_arguments():
        trace: Trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    for name, (size, used) in sources.plates.items():
        if name not in trace:  # NumPyro keeps plates of control flow bodies to itself
            trace[name] = {"type": "plate", "name": name, "args": (size, used)}
    check_observed(trace)
    return trace


def is_latent(site: Mapping[str, Any]) -> bool:
    """A sample site that neither the model nor a handler inside it has given a value."""
    return site["type"] == "sample" and not site["is_observed"] and site["value"] is None


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site of a trace is a discrete latent."""
    return "_states" in site


def is_drawn(site: Mapping[str, Any]) -> bool:
    """Whether a site is a discrete latent that is not summed out."""
    return "_drawn" in site


def at_step(series: Array, steps: tuple[Step, ...]) -> Array:
    """The part of an array for a whole series that belongs to the present step."""
    for step in steps:
        series = series[step.index]
    return series


def fixed_value(site: Mapping[str, Any]) -> Array | None:
    """The value of a latent site that cannot vary: a point mass."""
    fn = site["fn"]
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return jnp.broadcast_to(fn.v, site_shape(site)) if isinstance(fn, dist.Delta) else None


def site_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a sample site's value."""
    return tuple(site["kwargs"].get("sample_shape", ())) + tuple(site["fn"].shape())
