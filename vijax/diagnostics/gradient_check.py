"""Gradients that are not those of the log density.

`jax.lax.stop_gradient`, custom derivative rules and rounding (integer casts, `round`, `argmax`,
comparisons) in a model make automatic differentiation return something else than the derivative.
The difference `f(z + h u) - f(z - h u)` of the log density must equal the integral of the gradient
along the segment, which Simpson's rule takes from the gradients at its ends and center.

Three things make them differ where nothing is wrong. The error of Simpson's rule, kinks as in `|x|`
included, is below twice the difference between the trapezoidal and the midpoint rule. Rounding of
the log density does not depend on the length of the segment, so that much shorter ones show it. A
jump inside of a segment is an error only if most segments have one. Hence the gradient counts as
wrong where it is at most of some draws, in the same sites and for the same length of the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vijax.contracts import Target
from vijax.contracts.kernel import Floats, Kernel
from vijax.contracts.stacked_kernel import StackedKernel

MIN_DRAWS = 12
_MOST = 9  # of these, at which a wrong gradient is wrong
_NOISE_STEPS = (0.01, -0.006, 0.003)  # sds: steps from a draw that show the rounding error
_LENGTHS = (0.1, 0.4)  # sds: half lengths of the segments that are compared
_MIN_SLOPE = 0.03  # nats per sd: smaller errors of a gradient do not matter
_NOISE_FACTOR = 3.0
_OUTLIERS = 2  # steps that may meet a jump, which is not rounding
_MAX_GROUPS = 16  # groups of sites that are moved together
_MAX_ELEMENTS = 2**26  # data elements that a comparison by groups may read
_MAX_DIM = 2000  # dimensions up to which groups are compared
_MIN_STEP = 8.0  # longest of these steps at least, in units of the coordinate's rounding error
_MAX_NAMES = 3


class _Ends(NamedTuple):
    """The kernel at points `(num_draws, num_groups, dim)`."""

    points: Floats
    log_density: Floats
    gradient: Floats


def wrong_gradient(kernel: Kernel, draws: Floats, rng: np.random.Generator) -> tuple[str, ...]:
    """Sites whose coordinates have a gradient that is not that of the log density.

    Args:
        kernel: the compiled log density and gradient.
        draws: of the guide, `(num_draws, dim)`, with a finite log density.
        rng: source of randomness, for directions.

    Returns:
        Up to three names of sites; empty if the gradient is right, or too few draws can be used.
    """
    if len(draws) < MIN_DRAWS:
        return ()
    groups = _groups(kernel.target, kernel.num_elements)
    names = groups[0]
    found = [
        one for one, bad in zip(groups, _wrong(kernel, draws, groups, rng), strict=True) if bad
    ]
    if not found:
        return ()
    parts = [one for one in found if len(one) < len(names)] or found
    each = [[name] for one in parts for name in one][:_MAX_GROUPS]
    single = [one for one, bad in zip(each, _wrong(kernel, draws, each, rng), strict=True) if bad]
    return tuple(name for one in single or found[:1] for name in one)[:_MAX_NAMES]


def _groups(target: Target, num_elements: int) -> list[list[str]]:
    """All sites, and where that is affordable parts of them."""
    names = [site.name for site in target.space.sites if site.size]
    per_group = MIN_DRAWS * (len(_NOISE_STEPS) + 2 * len(_LENGTHS))
    affordable = _MAX_ELEMENTS // (num_elements * per_group)
    if len(names) == 1 or affordable <= 1 or target.space.dim > _MAX_DIM:
        return [names]
    num = min(len(names), _MAX_GROUPS, affordable)
    return [
        names,
        *([names[i] for i in part] for part in np.array_split(np.arange(len(names)), num)),
    ]


def are_wrong(
    kernel: StackedKernel,
    sets: np.ndarray,
    draws: Sequence[Floats],
    rngs: Sequence[np.random.Generator],
) -> np.ndarray:
    """Whether `wrong_gradient` finds any site, for many data sets, by one call of the kernel.

    Args:
        kernel: log density and gradient of all sets.
        sets: the data sets, increasing.
        draws: of the guide of each, with a finite log density.
        rngs: sources of randomness.
    """
    groups = _groups(kernel.target, kernel.num_elements)
    segments = [
        [
            np.broadcast_to(part, (MIN_DRAWS, part.shape[1], kernel.dim))
            for part in _segments(kernel.target, kernel.eps, kernel.round, of_set, groups, rng)
        ]
        for of_set, rng in zip(draws, rngs, strict=True)
    ]
    points = [
        kernel.round(np.stack(parts)).reshape(len(sets), -1, kernel.dim)
        for parts in zip(*segments, strict=True)
    ]
    values = kernel.at(np.concatenate(points, axis=1), sets)
    cuts = np.cumsum([part.shape[1] for part in points])[:-1]
    split = [np.split(one, cuts, axis=1) for one in values]
    out = []
    for i, parts in enumerate(segments):
        ends = []
        for at, part, value, slope in zip(points, parts, *split, strict=True):
            shape = part.shape
            ends.append(
                _Ends(at[i].reshape(shape), value[i].reshape(shape[:-1]), slope[i].reshape(shape))
            )
        out.append(_mismatched(ends).any())
    return np.array(out)


def _wrong(
    kernel: Kernel, draws: Floats, groups: list[list[str]], rng: np.random.Generator
) -> Floats:
    """Whether the gradient is wrong in each group of sites, `(num_groups,)`."""
    segments = _segments(kernel.target, kernel.eps, kernel.round, draws, groups, rng)
    return _mismatched(_evaluate(kernel, segments))


def _segments(
    target: Target,
    eps: float,
    rounded: Callable[[Floats], Floats],
    draws: Floats,
    groups: list[list[str]],
    rng: np.random.Generator,
) -> list[Floats]:
    """Draws, and points around each that are moved along the sites of a group."""
    dim = target.space.dim
    labels = np.repeat(
        [site.name for site in target.space.sites], [site.size for site in target.space.sites]
    )
    within = np.array([np.isin(labels, group) for group in groups])
    centers = rounded(draws[np.linspace(0, len(draws) - 1, MIN_DRAWS).astype(int)])[:, None]
    low, high = np.percentile(draws, (25, 75), axis=0)
    sd = np.maximum((high - low) / 1.35, 1e-6 * draws.std(axis=0))
    shape = (MIN_DRAWS, len(groups), dim)
    # of random length: equal ones may be in step with a periodic density
    directions = within * rng.choice((-1.0, 1.0), shape) * rng.uniform(0.7, 1.3, shape)
    shortest = _MIN_STEP / max(_NOISE_STEPS) * eps * np.abs(centers)
    steps = [length * np.maximum(sd, shortest) * directions for length in _NOISE_STEPS]
    steps += [sign * length * sd * directions for length in _LENGTHS for sign in (1, -1)]
    return [centers, *(centers + step for step in steps)]


def _mismatched(evaluated: list[_Ends]) -> Floats:
    """Whether differences of log densities are not those of the gradient, by group."""
    middle, *ends = evaluated
    short, longer = ends[: len(_NOISE_STEPS)], ends[len(_NOISE_STEPS) :]
    with np.errstate(all="ignore"):
        rounding = _rounding(middle, short)
        wrong = np.zeros(short[0].log_density.shape[1], bool)
        for length, up, down in zip(_LENGTHS, longer[::2], longer[1::2], strict=True):
            step = up.points - down.points
            trapezoid = np.sum(0.5 * (up.gradient + down.gradient) * step, axis=-1)
            midpoint = np.sum(middle.gradient * step, axis=-1)
            difference = up.log_density - down.log_density
            mismatch = np.abs(difference - (trapezoid + 2 * midpoint) / 3)
            tolerance = np.maximum(2 * np.abs(trapezoid - midpoint), _NOISE_FACTOR * rounding)
            bad = mismatch > np.maximum(tolerance, 2 * length * _MIN_SLOPE)
            bad &= np.isfinite(mismatch) & np.isfinite(middle.log_density)
            wrong |= bad.sum(axis=0) >= _MOST
    return wrong


def _rounding(middle: _Ends, ends: list[_Ends]) -> Floats:
    """Rounding error of a difference of log densities, by group, from steps of different length.

    Rounding is not random: steps of the same length may all miss it.
    """
    errors = [
        np.abs(
            end.log_density
            - middle.log_density
            - np.sum(0.5 * (end.gradient + middle.gradient) * (end.points - middle.points), axis=-1)
        )
        for end in ends
    ]
    every = np.concatenate(errors)
    return np.sort(np.where(np.isfinite(every), every, 0.0), axis=0)[-1 - _OUTLIERS]


def _evaluate(kernel: Kernel, points: list[Floats]) -> list[_Ends]:
    """The kernel at arrays of points, by one call."""
    rounded = [kernel.round(one) for one in points]
    flat = [one.reshape(-1, kernel.dim) for one in rounded]
    log_density, gradient = kernel(np.concatenate(flat))
    cuts = np.cumsum([len(one) for one in flat])[:-1]
    return [
        _Ends(at, value.reshape(at.shape[:-1]), slope.reshape(at.shape))
        for at, value, slope in zip(
            rounded, np.split(log_density, cuts), np.split(gradient, cuts), strict=True
        )
    ]
