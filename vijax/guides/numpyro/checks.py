"""What a guide function must sample for a given model, said while its abstract trace runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.flows import InverseAutoregressiveTransform

from vijax.contracts import Space
from vijax.guides.numpyro.implicit import has_gradient
from vijax.guides.numpyro.running import Trace
from vijax.runtime.errors import GuideError, mismatch


def check_sites(label: str, trace: Trace, space: Space) -> None:
    """Refuses a guide whose latent sites are not the model's.

    Raises:
        GuideError: a site is missing, extra, of another shape, discrete, or not reparameterized.
    """
    found = {
        name: message
        for name, message in trace.items()
        if message["type"] == "sample" and not message["is_observed"]
    }
    for name in found:
        _check_site(label, name, found[name])
    own = {name: s for name, s in found.items() if not s["infer"].get("is_auxiliary", False)}
    for name in own:
        if name not in space.names:
            raise GuideError(_extra(label, name, space))
    for site in space.sites:
        if site.name not in found:
            raise GuideError(
                f"{label}, site {site.name!r}: expected a numpyro.sample of this latent of the "
                f"model, got only {sorted(found)}. (NumPyro would draw it from its prior, in "
                "silence.) Add the site to the guide."
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


def draws_latents_only(trace: Trace, space: Space) -> bool:
    """Whether all that a guide samples are latents of the model, with densities to be had cheaply.

    An auxiliary site would have to be integrated out, a factor need not leave a density, and a
    point mass has none.
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
        # its inverse takes as many passes as it has dimensions
        slow = any(isinstance(step, InverseAutoregressiveTransform) for step in fn.transforms)
        return not slow and _has_density(fn.base_dist)
    return not isinstance(fn, dist.Delta)


def _check_site(label: str, name: str, site: Mapping[str, Any]) -> None:
    fn = site["fn"]
    if not fn.is_discrete and has_gradient(fn):
        return
    kind = "is discrete" if fn.is_discrete else "has no reparameterized sampler"
    remedy = (
        "Leave the site to vijax: guide={..., ...: ...} by site, or guide='auto'."
        if fn.is_discrete
        else "Use a reparameterized distribution (a Normal, a transformed Normal, a mixture of "
        "Normals, ...)."
    )
    raise GuideError(
        f"{label}, site {name!r}: {type(fn).__name__} {kind}, so its draws carry no gradient. "
        + remedy
    )


def _extra(label: str, name: str, space: Space) -> str:
    close = difflib.get_close_matches(name, space.names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"{label}, site {name!r}: expected the model's latent sites {list(space.names)}, got a "
        f"site the model does not have.{hint} Mark a site of the guide's own with "
        "infer={'is_auxiliary': True}."
    )
