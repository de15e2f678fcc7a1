"""Optimization paths on a log density: starting points, iterates and quasi-Newton pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from vijax.contracts import Target
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import end_reason

CONVERGED = "converged: predicted increase of the log density below the tolerance"
NO_START = "no starting point with a finite log density and gradient was found"
LINE_SEARCH_FAILED = "line search failed to increase the log density"
EVALUATION_LIMIT = "not converged: evaluation limit reached"
SLOW_PATH = "stopped: most other paths ended much earlier"


def out_of_time() -> str:
    """The reason of a path that ends with the time of the fit."""
    return f"not converged: {end_reason()}"


class Path(NamedTuple):
    """The iterates of one optimization path, the starting point first.

    Attributes:
        points: `(num + 1, dim)`, rounded to the device's precision.
        log_density: `(num + 1,)`.
        gradient: `(num + 1, dim)`, of the log density.
        reason: why it stopped.
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

    To find modes far from the origin, three in eight are spread twice as far, and a quarter are, in
    coordinates where the prior is known and reaches beyond the interval, a Latin hypercube of it.

    Points whose log density or gradient is not finite are redrawn individually, from an interval
    that shrinks by 10 % per attempt; after the last attempt they are returned as they are.

    Args:
        kernel: the compiled log density and gradient.
        rng: source of randomness.
        num: number of points.
        first: points to use unchanged if finite, `(at most num, dim)`.
        radius: half the width of the interval.
        rounds: maximum number of attempts.
    """
    starts = proposed_starts(kernel.target, kernel.dim, rng, num, first, radius)
    invalid = np.arange(num)
    for attempt in range(rounds):
        log_density, gradient = kernel(starts[invalid])
        invalid = invalid[~(np.isfinite(log_density) & np.isfinite(gradient).all(axis=1))]
        if not invalid.size:
            break
        width = radius * 0.9**attempt
        starts[invalid] = rng.uniform(-width, width, (invalid.size, kernel.dim))
    return kernel.round(starts)


def proposed_starts(
    target: Target,
    dim: int,
    rng: np.random.Generator,
    num: int,
    first: Floats | None = None,
    radius: float = 2.0,
) -> Floats:
    """The points of `finite_starts` before their log densities are known, `(num, dim)`."""
    starts = rng.uniform(-radius, radius, (num, dim))
    prior = num - num // 4
    starts[prior - 3 * num // 8 : prior] *= 2
    location, scale = _prior(target, dim)
    far = np.flatnonzero(np.abs(location) + scale > radius)
    if far.size and prior < num:
        from_prior = np.arange(prior, num)[:, None]
        strata = rng.permuted(np.tile(from_prior - from_prior[0], far.size), axis=0)
        noise = ndtri((strata + rng.random(strata.shape)) / len(from_prior))
        starts[from_prior, far] = location[far] + scale[far] * noise
    if first is not None:
        starts[: len(first)] = first[:num]
    return starts


def _prior(target: Target, dim: int) -> tuple[Floats, Floats]:
    """Location and scale `(dim,)` of the prior; both zero where it is not known."""
    location, scale = np.zeros(dim), np.zeros(dim)
    start = 0
    for site in target.space.sites:
        stop = start + site.size
        moments = target.structure.priors.get(site.name)
        if moments is not None and moments[0].size == site.size:  # not some rows of a plate
            location[start:stop], scale[start:stop] = (one.reshape(-1) for one in moments)
        start = stop
    return location, scale


def positive_curvature(s: Floats, y: Floats) -> np.ndarray:
    """Which pairs `(num, dim)` have `s'y` clearly above zero (curvature condition)."""
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
    # non-negative by Cauchy-Schwarz; the bound guards against rounding
    return 1 / np.maximum(inverse, 1e-10 / diagonal)
