"""Centering weights of hierarchical sites, between 0 (non-centered) and 1 (centered)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Target
from vijax.runtime.errors import ModelError, mismatch

LEARNED = "learned"

Weights = dict[str, np.ndarray]


def noncentered_weights(target: Target) -> Weights:
    """All hierarchical sites non-centered: the only start without an unbounded mode."""
    shapes = {site.name: site.z_shape for site in target.space.sites}
    return {name: np.zeros(shapes[name], np.float32) for name in target.structure.hierarchical}


def centered_weights(target: Target) -> Weights:
    """All hierarchical sites centered, the parameterization of the model."""
    return {name: weight + 1 for name, weight in noncentered_weights(target).items()}


def requested_weights(target: Target, centering: Any) -> dict[str, jax.Array]:
    """The weights of a `centering=` option, on the device.

    Raises:
        ModelError: a site is not hierarchical, or its weights have the wrong shape or range.
        TypeError: `centering` is not a mapping.
    """
    if centering is None or (isinstance(centering, str) and centering == LEARNED):
        return {}
    if not isinstance(centering, Mapping):
        expected = f"{LEARNED!r} or weights by site, {{site: weight}}"
        raise TypeError(mismatch("centering", expected, repr(centering)))
    shapes = {site.name: site.z_shape for site in target.space.sites}
    found = {}
    for name, weight in centering.items():
        if name not in target.structure.hierarchical:
            expected = f"sites whose scale is latent, {list(target.structure.hierarchical)}"
            raise ModelError(mismatch("centering", expected, repr(name)))
        label, array = f"centering[{name!r}]", np.asarray(weight, np.float32)
        if array.shape not in ((), shapes[name]):
            raise ModelError(mismatch(label, f"a number or shape {shapes[name]}", array.shape))
        if not np.all((array >= 0) & (array <= 1)):
            raise ModelError(mismatch(label, "weights between 0 and 1", weight))
        found[name] = np.broadcast_to(array, shapes[name])
    return jax.device_put(found)


def resized_weights(target: Target, centering: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The weights of the same sites for another number of rows.

    Raises:
        ModelError: weights differ between rows.
    """
    shapes = {site.name: site.z_shape for site in target.space.sites}
    found = jax.device_get(dict(centering))
    for name, weight in found.items():
        if weight.shape != shapes[name]:
            if np.ptp(weight) > 0:
                expected = "one weight for all rows, since the rows are different ones"
                raise ModelError(
                    mismatch(f"centering[{name!r}]", expected, f"{weight.size} weights")
                )
            found[name] = np.broadcast_to(weight.flat[0], shapes[name])
    return jax.device_put(found)


def with_centering(batch: Batch, weights: Weights) -> Batch:
    """The data with these centering weights."""
    return batch._replace(centering=jax.device_put(weights))
