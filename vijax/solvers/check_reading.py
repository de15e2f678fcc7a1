"""Whether a conjugate model was read as it computes its own log density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, Target
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import host_rng

_POINTS = 2
_SPREAD = 0.5  # of the points, in unconstrained space
_ROUNDING = 1e4  # relative difference, in units of the spacing of numbers


def check_reading(
    target: Target, batch: Batch, key: Array, names: tuple[str, ...] | None = None
) -> None:
    """Compares the expected log density at points with the model's log density, site by site.

    One small program, compiled fast, at two random positions.

    Args:
        target: of a conditionally conjugate model.
        batch: its data.
        key: random key.
        names: the sites that are read, all others given; by default all.

    Raises:
        GuideError: they differ; the message names the site.
    """
    sites = [site for site in target.space.sites if site.cardinality is None]
    rng, dtype = host_rng(key), np.dtype(jnp.result_type(float))
    positions = {
        site.name: (_SPREAD * rng.standard_normal((_POINTS, *site.z_shape))).astype(dtype)
        for site in sites
    }
    found = target.program(_compare, names, quick=True)(positions, batch)
    pairs = {name: (np.asarray(own), np.asarray(read)) for name, (own, read) in found.items()}
    size = max(1.0, *(np.abs(own[np.isfinite(own)]).max(initial=0) for own, _ in pairs.values()))
    tolerance = _ROUNDING * np.finfo(jnp.result_type(float)).eps * size
    for name, (own, read) in pairs.items():
        wrong = np.isfinite(own) & ~(np.abs(own - read) <= tolerance)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise GuideError(
                f"guide='conjugate': expected the log density of site {name!r} to be {own[i]:.6g} "
                f"at a random position, as the model computes it, got {read[i]:.6g} from its "
                "reading as a conjugate model. Probabilities that do not add up to one are a "
                "common cause; normalize them, or use guide='auto'."
            )


def _compare(
    target: Target, names: tuple[str, ...] | None, positions: Position, batch: Batch
) -> dict[str, tuple[Array, Array]]:
    """The pairs of log densities at each position."""
    return jax.lax.map(lambda z: target.functions.compare_reading(z, batch, names), positions)
