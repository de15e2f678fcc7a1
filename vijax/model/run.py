"""Runs a model function once at given values, and reads its log density off the trace.

One substitution serves every purpose: each latent site asks where its value comes from at the
moment it is reached, with its distribution as the model made it at this point. A support that
depends on other latents, inside `ImproperUniform` or a `scan` too, is thus always the current
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro import deterministic, handlers
from numpyro.distributions import constraints

from vijax._contracts import PyTree
from vijax.model.supports import bijector

Trace = dict[str, dict[str, Any]]
LOG_DET = "__log_det__"


def run(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    latent: Callable[[dict[str, Any]], Array | None],
    params: Mapping[str, PyTree] | None = None,
    mutable: Mapping[str, PyTree] | None = None,
    index: Mapping[str, Array] | None = None,
) -> Trace:
    """The model's trace, with `latent(site)` deciding the value of every latent site.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        key: feeds sites left to sample and `numpyro.prng_key`.
        latent: returns a latent site's value in its support, or `None` to sample the site.
        params: `param` sites in unconstrained space; those missing take the model's start value.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
    """

    def substitute(site: dict[str, Any]) -> Any:
        kind, name = site["type"], site["name"]
        if kind == "sample":
            return latent(site) if is_latent(site) else None
        if kind == "param" and params and name in params:
            return constrain_param(params[name], site)
        if kind == "mutable" and mutable and name in mutable:
            # a copy of the containers: modules write into them while the model runs
            return jax.tree.map(lambda leaf: leaf, mutable[name])
        if kind == "plate" and index and name in index:
            return index[name]
        return None

    substituted = handlers.substitute(model, substitute_fn=substitute)
    # seed outside substitute: sites that have a value need no key, and no split is traced
    return handlers.trace(handlers.seed(substituted, key)).get_trace(*args, **kwargs)


def is_latent(site: Mapping[str, Any]) -> bool:
    """A sample site that neither the model nor a handler inside it has given a value."""
    return site["type"] == "sample" and not site["is_observed"] and site["value"] is None


def from_unconstrained(z: Mapping[str, Array]) -> Callable[[dict[str, Any]], Array | None]:
    """Latent values from unconstrained ones; `log |Jacobian|` is recorded beside each."""

    def latent(site: dict[str, Any]) -> Array | None:
        if site["name"] not in z:
            return fixed_value(site)
        to_support = bijector(site["fn"].support)
        value = z[site["name"]]
        step = site["infer"].get("_scan_current_index")
        if step is not None and jnp.ndim(value) > len(to_support.z_shape(site_shape(site))):
            value = value[step]  # inside scan: this step's slice of the whole series
        x, log_det = to_support.forward(value)
        deterministic(LOG_DET + site["name"], log_det)
        return x

    return latent


def fixed_value(site: Mapping[str, Any]) -> Array | None:
    """The value of a latent site that cannot vary: a point mass."""
    fn = site["fn"]
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return jnp.broadcast_to(fn.v, site_shape(site)) if isinstance(fn, dist.Delta) else None


def site_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a sample site's value."""
    return tuple(site["kwargs"].get("sample_shape", ())) + tuple(site["fn"].shape())


def constrain_param(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """A `param` site's unconstrained value, moved into its constraint."""
    constraint = param_constraint(site)
    return value if constraint is None else bijector(constraint).forward(value)[0]


def unconstrain_param(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """The inverse of `constrain_param`."""
    constraint = param_constraint(site)
    return value if constraint is None else bijector(constraint).inverse(jnp.asarray(value))


def param_constraint(site: Mapping[str, Any]) -> constraints.Constraint | None:
    """A `param` site's constraint, `None` for the real line and for network parameters."""
    constraint = site["kwargs"].get("constraint", constraints.real)
    return None if constraint is constraints.real else constraint


def log_probs(trace: Trace, scaled: bool = True) -> dict[str, Array]:
    """Log density by sample site, elementwise over its batch; `log |Jacobian|` not included.

    Args:
        trace: from `run`.
        scaled: whether plate and `scale` factors are applied.
    """
    out = {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        log_prob = _distribution(trace, site).log_prob(site["value"])
        if scaled and site["scale"] is not None:
            log_prob = site["scale"] * log_prob
        out[name] = log_prob
    return out


def log_density(trace: Trace) -> Array:
    """Log density of a trace in unconstrained space, a scalar."""
    total = sum((jnp.sum(value) for value in log_probs(trace).values()), jnp.zeros(()))
    for name, site in trace.items():
        if LOG_DET in name:
            latent = trace[name.replace(LOG_DET, "", 1)]
            # a subsampled plate scales the Jacobian with the density; `scale` and `mask` act on
            # the density alone
            total = total + plate_scale(trace, latent) * jnp.sum(site["value"])
    return total


def plate_scale(trace: Trace, site: Mapping[str, Any]) -> float:
    """Full rows over rows in use, multiplied over the plates of a site."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        plate = trace.get(frame.name)
        if plate is not None:
            size, used = plate["args"]
            scale *= size / (used or size)
    return scale


def _distribution(trace: Trace, site: Mapping[str, Any]) -> dist.Distribution:
    """A site's distribution, without the mask that `obs_mask` puts on the unobserved part.

    `sample(..., obs_mask=m)` adds a latent for every entry and masks it where it was observed.
    Unmasked entries are used, masked ones are not: giving those their own prior changes nothing
    else and keeps the density proper.
    """
    fn, name = site["fn"], site["name"]
    if name.endswith("_unobserved") and not site["is_observed"]:
        twin = trace.get(name.removesuffix("_unobserved") + "_observed")
        if twin is not None and isinstance(fn, dist.MaskedDistribution):
            return fn.base_dist
    return fn
