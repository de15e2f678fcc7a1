"""Paths of an optimizer through the log density, where they start and what their steps tell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel

CONVERGED = "the log density stopped rising"
NO_START = "no starting point with a finite log density and gradient was found"
STUCK = "no step along the ascent direction raised the log density"
EXHAUSTED = "the limit of trial points was reached while the log density was still rising"
STRAGGLER = "stopped long after most other paths had ended"


class Path(NamedTuple):
    """The iterates of one path, the start first.

    Attributes:
        points: `(num + 1, dim)`, as the device saw them.
        log_density: `(num + 1,)`.
        gradient: `(num + 1, dim)`, of the log density.
        reason: why it ended.
    """

    points: Floats
    log_density: Floats
    gradient: Floats
    reason: str

    @property
    def converged(self) -> bool:
        """Whether it ended at a local maximum, to working precision."""
        return self.reason == CONVERGED


def finite_starts(
    kernel: Kernel,
    rng: np.random.Generator,
    num: int,
    first: Floats | None = None,
    radius: float = 2.0,
    rounds: int = 25,
) -> Floats:
    """Starting points `(num, dim)`, uniform on `(-radius, radius)` in each coordinate.

    A point whose log density or gradient is not finite is drawn again, on its own, from an
    interval that slowly narrows; one that never succeeds is returned as it is.

    Args:
        kernel: the compiled log density and gradient.
        rng: source of randomness.
        num: number of points.
        first: points to use as they are if finite, `(at most num, dim)`.
        radius: half the width of the interval.
        rounds: attempts.
    """
    starts = rng.uniform(-radius, radius, (num, kernel.dim))
    if first is not None:
        starts[: len(first)] = first[:num]
    bad = np.arange(num)
    for attempt in range(rounds):
        log_density, gradient = kernel(starts[bad])
        bad = bad[~(np.isfinite(log_density) & np.isfinite(gradient).all(axis=1))]
        if not bad.size:
            break
        width = radius * 0.9**attempt
        starts[bad] = rng.uniform(-width, width, (bad.size, kernel.dim))
    return kernel.round(starts)


def positive_curvature(s: Floats, y: Floats) -> np.ndarray:
    """Which pairs `(num, dim)` have `s'y` clearly above zero."""
    sy = np.einsum("pd,pd->p", s, y)
    return sy > 1e-10 * np.sqrt(np.sum(s**2, axis=1) * np.sum(y**2, axis=1))


def update_diagonal(diagonal: Floats, s: Floats, y: Floats) -> Floats:
    """Diagonal of the inverse Hessian `(num, dim)` after the pairs `s`, `y` `(num, dim)`.

    `1/D' = y'Dy / (s'y D) + y^2 / s'y - y'Dy s^2 / (s'y s'D^-1 s D^2)`: the diagonal of the BFGS
    update of `D`, in the form of Gilbert and Lemarechal, 1989.
    """
    sy = np.einsum("pd,pd->p", s, y)[:, None]
    ydy = np.einsum("pd,pd->p", y, diagonal * y)[:, None]
    sds = np.einsum("pd,pd->p", s, s / diagonal)[:, None]
    inverse = ydy / (sy * diagonal) + y**2 / sy - ydy * s**2 / (sy * sds * diagonal**2)
    # non-negative by Cauchy-Schwarz; rounding is what the bound is for
    return 1 / np.maximum(inverse, 1e-10 / diagonal)
