"""Partially centered sites that share one prior, as of a model with a loop over groups.

Their values are computed together: tracing and compiling a transformation takes milliseconds for
every site, and that of a thousand stacked coordinates as long as that of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.tracing.handler import Message
from vijax.model.tracing.location_scale import LocationScale, location_scale, parameters
from vijax.model.tracing.sites import Trace, latents
from vijax.runtime.stacks import MANY, SMALL, cut, stack

Groups = tuple[tuple[str, ...], ...]


def shared_priors(trace: Trace) -> Groups:
    """Groups of latent sites whose priors have the same location and scale."""
    found: dict[Hashable, list[str]] = {}
    for name, site, record in latents(trace):
        prior, shape = parameters(site["fn"]), jnp.shape(jnp.asarray(record.z))
        if prior is not None and not site["_loops"] and math.prod(shape) <= SMALL:
            found.setdefault((_identity(prior), shape), []).append(name)
    return tuple(tuple(names) for names in found.values() if len(names) >= MANY)


def _identity(prior: tuple[Any, ...]) -> Hashable:
    """Equal for parameters that are the same objects, or equal numbers."""
    return tuple(one if isinstance(one, (int, float, np.number)) else id(one) for one in prior)


class SharedPriors:
    """Results of a function of the prior of a site, for all sites of a group together.

    Args:
        groups: from `shared_priors`.
        function: `(argument, weight, prior)` of one site to its results.
        arguments: by site.
        weights: centering weights by site.
    """

    def __init__(
        self,
        groups: Groups,
        function: Callable[[Array, Array, LocationScale], tuple[Array, ...]],
        arguments: Mapping[str, Array],
        weights: Mapping[str, Array],
    ) -> None:
        self._groups = {
            name: group
            for group in groups
            if all(
                member in weights
                and member in arguments
                and jnp.shape(arguments[member]) == jnp.shape(weights[member])
                for member in group
            )
            for name in group
        }
        self._function, self._arguments, self._weights = function, arguments, weights
        self._found: dict[str, tuple[tuple[Any, ...], tuple[Array, ...]]] = {}

    def results(self, name: str, site: Message) -> tuple[Array, ...] | None:
        """The results for a site; `None` if they must be computed by themselves."""
        prior = parameters(site["fn"]) if name in self._groups else None
        if prior is None:
            return None
        if name not in self._found:
            self._compute(self._groups[name], prior, location_scale(site["fn"]))
        shared, found = self._found[name]
        return found if _identity(shared) == _identity(prior) else None

    def _compute(
        self, group: tuple[str, ...], parameters: tuple[Any, ...], prior: LocationScale | None
    ) -> None:
        assert prior is not None
        stacked = [stack([of[name] for name in group]) for of in (self._arguments, self._weights)]
        results = jax.vmap(lambda one, weight: self._function(one, weight, prior))(*stacked)
        parts = (cut(jnp.ravel(leaf), [leaf.shape[1:]] * len(group)) for leaf in results)
        for name, *found in zip(group, *parts, strict=True):
            self._found[name] = parameters, tuple(found)
