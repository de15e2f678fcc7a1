"""Improper posteriors: directions in which the density does not fall.

A density has a finite integral along a line only if it falls faster than `1 / |t|` far out. Between
`t` and `100 t` its logarithm must fall by more than `log 100`. It is compared at such points along
coordinates, along the principal axes of the guide's draws, and along their mean.
"""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel

_NEAR, _FAR = 1e2, 1e4  # distances in standard deviations
_MIN_FALL = 2.3  # nats: half of log(_FAR / _NEAR), which leaves room for rounding
_MAX_DROP = 20.0  # nats below the center from which on a plateau has no mass that matters
_NUM_AXES = 5  # principal axes that are tried
_FLOAT_LIMIT = 1e30
_MAX_DIM = 500
_MAX_ELEMENTS = 2**32  # data elements that the comparison may read


def improper_direction(kernel: Kernel, draws: Floats) -> str:
    """A direction in which the log density does not fall, in words; empty if none was found.

    Not for many dimensions or much data, where it would be costly.

    Args:
        kernel: the compiled log density and gradient.
        draws: of the guide, `(num_draws, dim)`; rows that are not finite are left out.
    """
    if kernel.dim > _MAX_DIM or 4 * (kernel.dim + _NUM_AXES) * kernel.num_elements > _MAX_ELEMENTS:
        return ""
    draws = draws[np.all(np.abs(draws) < _FLOAT_LIMIT, axis=1)]
    dim = kernel.dim
    center, sd, axes = np.zeros(dim), np.ones(dim), np.zeros((0, dim))
    if len(draws) > 1:
        center, sd = draws.mean(axis=0), np.maximum(draws.std(axis=0), 1e-6)
        if len(draws) > dim > 1:
            axes = np.linalg.svd((draws - center) / sd, full_matrices=False)[2][:_NUM_AXES]
    directions = np.concatenate([np.eye(dim), axes, (center / sd)[None]])
    norms = np.linalg.norm(directions, axis=1)
    directions = directions[norms > 0] / norms[norms > 0, None]
    directions = np.concatenate([directions, -directions]) * sd
    with np.errstate(over="ignore", invalid="ignore"):
        near, far = center + _NEAR * directions, center + _FAR * directions
        log_density = kernel(np.concatenate([center[None], near, far]))[0]
    at_center, near_density, far_density = np.split(log_density, [1, 1 + len(near)])
    flat = far_density > near_density - _MIN_FALL
    flat &= near_density > np.where(np.isfinite(at_center), at_center, -np.inf) - _MAX_DROP
    if not flat.any():
        return ""
    direction = directions[int(np.argmax(flat))] / sd
    involved = np.flatnonzero(np.abs(direction) > 0.3 * np.abs(direction).max())[:3]
    return ", ".join(
        f"{kernel.label(int(i))} {'up' if direction[i] > 0 else 'down'}" for i in involved
    )
