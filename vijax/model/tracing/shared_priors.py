"""Partially centered sites that share one prior, as of a model with a loop over groups.

Their values are computed together: tracing and compiling a transformation takes milliseconds for
every site, and that of a thousand stacked coordinates as long as that of one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.tracing.handler import Message
from vijax.model.tracing.location_scale import (
    LocationScale,
    from_partially_centered,
    location_scale,
    log_prior_sd,
    parameters,
)
from vijax.model.tracing.sites import Trace, latents

_MANY = 8  # sites that are worth stacking
_SMALL = 64  # coordinates of such a site, at most

Groups = tuple[tuple[str, ...], ...]


class Centered(NamedTuple):
    """The value of a partially centered site.

    Attributes:
        z: the unconstrained value.
        log_scale: `log |dz/dw|`, summed.
        log_sd: log conditional prior standard deviation, by coordinate.
    """

    z: Array
    log_scale: Array
    log_sd: Array


def centered_value(w: Array, weight: Array, prior: LocationScale) -> Centered:
    """The value at the partially centered coordinate `w`."""
    return Centered(*from_partially_centered(w, weight, prior), log_prior_sd(weight, prior))


def shared_priors(trace: Trace) -> Groups:
    """Groups of latent sites whose priors have the same location and scale."""
    found: dict[Hashable, list[str]] = {}
    for name, site, record in latents(trace):
        prior, shape = parameters(site["fn"]), jnp.shape(jnp.asarray(record.z))
        if prior is not None and not site["_loops"] and math.prod(shape) <= _SMALL:
            found.setdefault((_identity(prior), shape), []).append(name)
    return tuple(tuple(names) for names in found.values() if len(names) >= _MANY)


def _identity(prior: tuple[Any, ...]) -> Hashable:
    """Equal for parameters that are the same objects, or equal numbers."""
    return tuple(one if isinstance(one, (int, float, np.number)) else id(one) for one in prior)


class SharedPriors:
    """The values of the partially centered sites of one run of a model, group by group.

    Args:
        groups: from `shared_priors`.
        w: partially centered coordinates by site.
        weights: centering weights by site.
    """

    def __init__(
        self, groups: Groups, w: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> None:
        self._groups = {
            name: group
            for group in groups
            if all(member in weights and member in w for member in group)
            for name in group
        }
        self._w, self._weights = w, weights
        self._found: dict[str, tuple[tuple[Any, ...], Centered]] = {}

    def value(self, name: str, site: Message) -> Centered | None:
        """The value of a site; `None` if it must be computed by itself."""
        raw, prior = parameters(site["fn"]), location_scale(site["fn"])
        if name not in self._groups or raw is None or prior is None:
            return None
        if name not in self._found:
            self._compute(self._groups[name], raw, prior)
        shared, value = self._found[name]
        return value if _identity(shared) == _identity(raw) else None

    def _compute(self, group: tuple[str, ...], raw: tuple[Any, ...], prior: LocationScale) -> None:
        stacked = [_stack([of[name] for name in group]) for of in (self._w, self._weights)]
        values = jax.vmap(lambda w, weight: centered_value(w, weight, prior))(*stacked)
        parts = zip(*(jnp.split(leaf, len(group)) for leaf in values), strict=True)
        for name, part in zip(group, parts, strict=True):
            self._found[name] = raw, Centered(*(jnp.reshape(leaf, leaf.shape[1:]) for leaf in part))


def _stack(leaves: list[Array]) -> Array:
    # not `stack`: XLA recognizes reshaped parts of one vector, and drops cut and concatenation
    return jnp.concatenate([jnp.reshape(leaf, (1, *jnp.shape(leaf))) for leaf in leaves])
