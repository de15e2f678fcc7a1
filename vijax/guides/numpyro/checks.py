"""Checks of a guide function's sites against those of the model, on an abstract trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.flows import InverseAutoregressiveTransform

from vijax.contracts import Space
from vijax.guides.numpyro.implicit_reparameterization import has_gradient
from vijax.guides.numpyro.tracing import Trace
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keywords import did_you_mean

_UNBOUNDED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (constraints.greater_than, ("above",)),
    (constraints.less_than, ("below",)),
    (constraints.interval, ()),
    (type(constraints.simplex), ()),
)


def check_sites(label: str, trace: Trace, space: Space) -> None:
    """Raises unless the guide's latent sites are those of the model.

    Raises:
        GuideError: a site is missing, extra, of another shape, or discrete.
    """
    found = {
        name: message
        for name, message in trace.items()
        if message["type"] == "sample" and not message["is_observed"]
    }
    for name in found:
        _check_site(label, name, found[name])
    latents = {name: s for name, s in found.items() if not s["infer"].get("is_auxiliary", False)}
    for name in latents:
        if name not in space.names:
            raise GuideError(_extra(label, name, space))
    for site in space.sites:
        if site.name not in found:
            raise GuideError(
                f"{label}, site {site.name!r}: expected a numpyro.sample of this latent of the "
                f"model, got only {sorted(found)}. (NumPyro would silently draw it from its "
                "prior.) Add the site to the guide."
            )
        shape = tuple(jnp.shape(found[site.name]["value"]))
        if shape != site.shape:
            raise GuideError(
                mismatch(
                    f"{label}, site {site.name!r}",
                    f"the model's shape {site.shape}",
                    f"{shape}",
                    "Check its plates, expand and to_event.",
                )
            )
    for name in trace:
        if trace[name]["type"] == "mutable":
            raise GuideError(
                f"{label}, mutable {name!r}: mutable state in a guide is not supported yet. Use a "
                "network without it (layer normalization instead of batch normalization)."
            )


def check_params(label: str, trace: Trace, model_trace: Trace) -> None:
    """Raises if the guide and the model have a `param` site of one name.

    Raises:
        GuideError: naming it.
    """
    for name, site in model_trace.items():
        if site["type"] == "param" and name in trace and trace[name]["type"] == "param":
            raise GuideError(
                f"{label}, param {name!r}: expected a name that the model does not use. Parameters "
                "of the guide and of the model are not shared; rename one of them, or make the "
                "shared quantity a latent site, which both may depend on."
            )


def check_supports(label: str, trace: Trace, model_trace: Trace) -> None:
    """Raises where draws of the guide leave the support of the model's site.

    There the ELBO is minus infinity, however small the probability.

    Raises:
        GuideError: naming the site and both supports.
    """
    for name, site in model_trace.items():
        if name not in trace or site["type"] != "sample" or trace[name]["type"] != "sample":
            continue
        inside, support = _ends(site["fn"]), site["fn"].support
        fn = trace[name]["fn"]
        found = _ends(fn)
        if inside is None or found is None or found <= inside:
            continue
        raise GuideError(
            f"{label}, site {name!r}: expected a distribution on the support of the model's site, "
            f"{support}, got {type(fn).__name__} on {fn.support}, whose draws leave it. Use a "
            "distribution on that support, such as LogNormal for a positive site or Beta for the "
            "unit interval, or transform a Normal: "
            "TransformedDistribution(Normal(loc, scale), biject_to(support))."
        )


def _ends(fn: dist.Distribution) -> frozenset[str] | None:
    """In which directions a support is unbounded; `None` for one of another kind."""
    base = fn.support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    if isinstance(fn, dist.Delta):
        return None  # its support is its value
    transformed = isinstance(fn, dist.TransformedDistribution)
    if transformed and fn.base_dist.support is not fn.transforms[0].domain:
        return None  # its support may be smaller than the codomain of its transforms
    if base is constraints.real:
        return frozenset({"below", "above"})
    if base is constraints.circular:
        return None
    for kind, ends in _UNBOUNDED:
        if isinstance(base, kind):
            return frozenset(ends)
    return None


def draws_latents_only(trace: Trace, space: Space) -> bool:
    """Whether a guide samples only latents of the model, all with densities that are cheap.

    An auxiliary site would have to be integrated out, the density with a factor need not be
    normalized, and a point mass has no density.
    """
    sampled = {name: site for name, site in trace.items() if site["type"] == "sample"}
    return all(
        name in space.names and not site["is_observed"] and _has_density(site["fn"])
        for name, site in sampled.items()
    )


def _has_density(fn: dist.Distribution) -> bool:
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    if isinstance(fn, dist.TransformedDistribution):
        # the inverse takes one pass per dimension
        slow = any(isinstance(step, InverseAutoregressiveTransform) for step in fn.transforms)
        return not slow and _has_density(fn.base_dist)
    return not isinstance(fn, dist.Delta)


def scored_sites(trace: Trace) -> tuple[str, ...]:
    """The sites of a guide whose draws have no gradient, not even an implicit one."""
    return tuple(
        name
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"] and not has_gradient(site["fn"])
    )


def _check_site(label: str, name: str, site: Mapping[str, Any]) -> None:
    if site["fn"].is_discrete:
        raise GuideError(
            f"{label}, site {name!r}: {type(site['fn']).__name__} is discrete, so its draws have "
            "no gradient. Use a vijax guide: guide={..., ...: ...} by site, or guide='auto'."
        )


def _extra(label: str, name: str, space: Space) -> str:
    hint = did_you_mean(name, space.names)
    return (
        f"{label}, site {name!r}: expected the model's latent sites {list(space.names)}, got a "
        f"site the model does not have.{hint} Mark an auxiliary site of the guide "
        "with infer={'is_auxiliary': True}."
    )
