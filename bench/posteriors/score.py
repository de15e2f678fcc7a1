"""Errors of draws, in units of the right answer's standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

TOLERANCE = 0.3  # an error beyond which a status that says "use it" is untrue
NOISE = 0.05  # the largest single error that draws which are right may show
_NORMAL_QUARTILES = 1.3489795  # between the quartiles of a standard normal


class Score(NamedTuple):
    """Over every scalar of the reference.

    Attributes:
        mean: root mean square of the errors of means, in reference sds.
        log_sd: root mean square of the logarithms of the ratios of sds.
        worst: the largest single one of either kind.
        where: the scalar and the kind that it belongs to.
    """

    mean: float
    log_sd: float
    worst: float
    where: str


def score(
    draws: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], robust: bool = False
) -> Score:
    """Holds draws against reference draws, both `(num_draws, *shape)` by site.

    Args:
        draws: of the method; sites that are not in the reference are ignored.
        reference: of the right answer.
        robust: medians and quartiles in place of moments.

    Raises:
        KeyError: a site of the reference is missing.
        ValueError: a site has another shape.
    """
    errors: dict[str, float] = {}
    kinds: dict[str, list[float]] = {"mean": [], "log sd": []}
    for site, right in reference.items():
        found = np.asarray(draws[site], np.float64)
        if found.shape[1:] != right.shape[1:]:
            raise ValueError(f"{site}: expected shape {right.shape[1:]}, got {found.shape[1:]}.")
        center, scale = _location_scale(right, robust)
        location, spread = _location_scale(found, robust)
        with np.errstate(divide="ignore"):  # a point mass: minus infinity
            pair = {"mean": (location - center) / scale, "log sd": np.log(spread / scale)}
        for kind, values in pair.items():
            kinds[kind].extend(values)
            for i, value in enumerate(values):
                errors[f"{site}[{i}] {kind}"] = abs(float(value))
    # a NaN is the worst of all
    where = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    return Score(_rms(kinds["mean"]), _rms(kinds["log sd"]), errors[where], where)


def truthful(status: str, worst: float) -> bool:
    """Whether a status that recommends the draws belongs to draws that are right."""
    return status not in ("certified", "corrected") or worst <= TOLERANCE


def _location_scale(draws: np.ndarray, robust: bool) -> tuple[np.ndarray, np.ndarray]:
    flat = draws.reshape(len(draws), -1)
    if not robust:
        return flat.mean(0), flat.std(0, ddof=1)
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=0)
    return middle, (high - low) / _NORMAL_QUARTILES


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
