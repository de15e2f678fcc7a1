"""Whether a conjugate model was read as it computes its own log density."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, Target
from vijax.contracts.conjugate import Comparison
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import host_rng

_POINTS = 2
_SPREAD = 0.5  # of the points, in unconstrained space
_NORMALIZED = 1e-3  # of a sum of probabilities
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
        GuideError: they differ, or the probabilities of categories do not add up to one; the
            message names the site.
    """
    sites = [site for site in target.space.sites if site.cardinality is None]
    rng, dtype = host_rng(key), np.dtype(jnp.result_type(float))
    positions = {
        site.name: (_SPREAD * rng.standard_normal((_POINTS, *site.z_shape))).astype(dtype)
        for site in sites
    }
    found = target.program(_compare, names, quick=True)(positions, batch)
    _check_sums(found.probability_sums)
    pairs = {
        name: (np.asarray(own), np.asarray(read))
        for name, (own, read) in found.log_densities.items()
    }
    size = max(1.0, *(np.abs(own[np.isfinite(own)]).max(initial=0) for own, _ in pairs.values()))
    tolerance = _ROUNDING * np.finfo(jnp.result_type(float)).eps * size
    for name, (own, read) in pairs.items():
        wrong = np.isfinite(own) & ~(np.abs(own - read) <= tolerance)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise GuideError(
                f"guide='conjugate': expected the log density of site {name!r} to be {own[i]:.6g} "
                f"at a random position, as the model computes it, got {read[i]:.6g} from its "
                "reading as a conjugate model. Use guide='auto', and please report the model."
            )


def _check_sums(found: Mapping[str, Array]) -> None:
    for name, sums in found.items():
        farthest = float(max(np.ravel(sums), key=lambda total: abs(total - 1)))
        if abs(farthest - 1) > _NORMALIZED:
            raise GuideError(
                f"guide='conjugate': expected probs of site {name!r} that add up to one, got a sum "
                f"of {farthest:.4g} at a random position. NumPyro does not normalize them; divide "
                "by their sum, or write them as products of Dirichlet variables."
            )


def _compare(
    target: Target, names: tuple[str, ...] | None, positions: Position, batch: Batch
) -> Comparison:
    """The comparison at each position."""
    found: Comparison = jax.lax.map(
        lambda z: target.functions.compare_reading(z, batch, names), positions
    )
    return found
