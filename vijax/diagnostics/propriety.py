"""Improper posteriors: directions in which the density does not fall.

A density has a finite integral along a line only if it falls faster than `1 / |t|` far out: its
logarithm must fall by more than `log 10` from `t` to `10 t`. It is compared at such points along
coordinates of sites with an improper prior, along the principal axes of the guide's draws, and
along their mean. A change of less than half of that, over two decades, is no fall. A posterior of
proper priors is proper and not looked at: that of a hierarchical scale may rise along a line.
"""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel

_DISTANCES = (1.0, 10.0, 100.0, 1e3, 1e4)  # standard deviations
_MIN_FALL = 1.15  # nats per decade: half of log(10), which leaves room for rounding
_MAX_DROP = 20.0  # nats below the center from which on a plateau has no mass that matters
_NUM_AXES = 5  # principal axes that are tried
_FLOAT_LIMIT = 1e30
_MAX_INFLATION = 1e7  # variance inflation factor from which coordinates are not identified
_MAX_DIM = 500
_MAX_ELEMENTS = 2**32  # data elements that the comparison may read


def improper_direction(kernel: Kernel, draws: Floats) -> str:
    """A direction in which the log density does not fall, in words; empty if none was found.

    Not for many dimensions or much data, where it would be costly.

    Args:
        kernel: the compiled log density and gradient.
        draws: of the guide, `(num_draws, dim)`; rows that are not finite are left out.
    """
    if kernel.dim > _MAX_DIM or 10 * (kernel.dim + _NUM_AXES) * kernel.num_elements > _MAX_ELEMENTS:
        return ""
    improper = kernel.target.structure.improper
    if not improper:
        return ""
    draws = draws[np.all(np.abs(draws) < _FLOAT_LIMIT, axis=1)]
    dim = kernel.dim
    center, sd, axes = np.zeros(dim), np.ones(dim), np.zeros((0, dim))
    if len(draws) > 1:
        center, sd = draws.mean(axis=0), np.maximum(draws.std(axis=0), 1e-6)
        if len(draws) > dim > 1:
            axes = np.linalg.svd((draws - center) / sd, full_matrices=False)[2][:_NUM_AXES]
    names = [site.name for site in kernel.target.space.sites for _ in range(site.size)]
    free = [i for i, name in enumerate(names) if name in improper]
    directions = np.concatenate([np.eye(dim)[free], axes, (center / sd)[None]])
    norms = np.linalg.norm(directions, axis=1)
    directions = directions[norms > 0] / norms[norms > 0, None]
    directions = np.concatenate([directions, -directions]) * sd
    with np.errstate(all="ignore"):
        points = [center + distance * directions for distance in _DISTANCES]
        log_density = kernel(np.concatenate([center[None], *points]))[0]
        top, lines = log_density[0], log_density[1:].reshape(len(_DISTANCES), -1)
        top = top if np.isfinite(top) else -np.inf
        level = (np.abs(lines[1:] - lines[:-1]) < _MIN_FALL) & (lines[:-1] > top - _MAX_DROP)
        # beyond the range of floats nothing is known: one decade has to do
        unknown = ~np.isfinite(lines[2:]) & (lines[2:] != -np.inf)
        flat = np.any(level[:-1] & (level[1:] | unknown), axis=0)
    if not flat.any():
        return _unidentified(kernel, draws, sd, free)
    direction = directions[int(np.argmax(flat))] / sd
    involved = np.flatnonzero(np.abs(direction) > 0.3 * np.abs(direction).max())[:3]
    return ", ".join(
        f"{kernel.label(int(i))} {'up' if direction[i] > 0 else 'down'}" for i in involved
    )


def _unidentified(kernel: Kernel, draws: Floats, sd: Floats, free: list[int]) -> str:
    """Coordinates with improper priors of which the data determine only a combination.

    On such a ridge the guide runs away, until rounding of the log density stops it; a point far out
    on the ridge cannot be represented. The variance inflation factor `1 / (1 - R^2)` shows it.
    """
    if not 1 < kernel.dim < len(draws):
        return ""
    values, vectors = np.linalg.eigh(np.corrcoef(draws / sd, rowvar=False))
    inflation = (vectors**2) @ (1 / np.maximum(values, 1e-16))
    found = [i for i in free if inflation[i] > _MAX_INFLATION]
    return ", ".join(kernel.label(i) for i in found[:3])
