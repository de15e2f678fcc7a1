"""Centering weights of hierarchical sites: as given by the user, and for other rows of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Target
from vijax.runtime.errors import ModelError, mismatch

LEARNED = "learned"

Weights = dict[str, np.ndarray]


def zeros(target: Target) -> Weights:
    """All hierarchical sites non-centered: the one start without a runaway mode."""
    shapes = {site.name: site.z_shape for site in target.space.sites}
    return {name: np.zeros(shapes[name], np.float32) for name in target.structure.hierarchical}


def ones(target: Target) -> Weights:
    """All hierarchical sites centered: the model's own coordinates, said explicitly."""
    return {name: weight + 1 for name, weight in zeros(target).items()}


def chosen(target: Target, centering: Any) -> dict[str, jax.Array]:
    """The weights behind a `centering=` option, on the device.

    Raises:
        ModelError: a site is no hierarchical one, or its weights have the wrong shape or range.
        TypeError: it is no mapping.
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


def of_rows(target: Target, centering: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The weights of the same sites beside other rows of data, fewer or more.

    Raises:
        ModelError: rows have weights of their own.
    """
    shapes = {site.name: site.z_shape for site in target.space.sites}
    found = jax.device_get(dict(centering))
    for name, weight in found.items():
        if weight.shape != shapes[name]:
            if np.ptp(weight) > 0:
                expected = "one weight for all rows, as these are others"
                raise ModelError(
                    mismatch(f"centering[{name!r}]", expected, f"{weight.size} weights")
                )
            found[name] = np.broadcast_to(weight.flat[0], shapes[name])
    return jax.device_put(found)


def with_weights(batch: Batch, weights: Weights) -> Batch:
    """The data with these centering weights."""
    return batch._replace(centering=jax.device_put(weights))
