"""Random numbers of many fits, each from a generator of its own.

What a fit draws does not depend on the others that are fitted with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Floats = np.ndarray


def standard_normal(rngs: Sequence[np.random.Generator], shape: tuple[int, ...]) -> Floats:
    """Standard normals `(len(rngs), *shape)`, each row from its generator."""
    out = np.empty((len(rngs), *shape))
    for row, rng in zip(out, rngs, strict=True):
        rng.standard_normal(out=row)
    return out


def antithetic(rngs: Sequence[np.random.Generator], num: int, dim: int) -> Floats:
    """Antithetic standard normals `(len(rngs), num, dim)`: the second half is minus the first."""
    half = standard_normal(rngs, (num // 2, dim))
    return np.concatenate([half, -half], axis=1)


def whitened(rngs: Sequence[np.random.Generator], num: int, dim: int) -> Floats:
    """The same with the identity as sample covariance; `num` is at least twice `dim`."""
    half = standard_normal(rngs, (num // 2, dim))
    values, axes = np.linalg.eigh(np.swapaxes(half, 1, 2) @ half / (num // 2))
    root = (axes / np.sqrt(values)[:, None]) @ np.swapaxes(axes, 1, 2)
    half = half @ root
    return np.concatenate([half, -half], axis=1)
