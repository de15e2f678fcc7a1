"""Errors of draws, in standard deviations of the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

TOLERANCE = 0.3  # error above which a status of certified or corrected is untrue
NOISE = 0.05  # largest single error expected of exact draws
_NORMAL_QUARTILES = 1.3489795  # interquartile range of a standard normal


class Score(NamedTuple):
    """Summary of the errors over every scalar of the reference.

    Attributes:
        mean: root mean square of the errors of means, in reference sds.
        log_sd: root mean square of the logarithms of the ratios of sds.
        worst: the largest single error of either kind.
        where: the scalar and the kind of the largest error.
    """

    mean: float
    log_sd: float
    worst: float
    where: str


def score(
    draws: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], robust: bool = False
) -> Score:
    """Compares draws with reference draws, both `(num_draws, *shape)` by site.

    Args:
        draws: of the method; sites that are not in the reference are ignored.
        reference: draws from the posterior.
        robust: medians and quartiles instead of moments.

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
        mean, sd = _location_scale(right, robust)
        found_mean, found_sd = _location_scale(found, robust)
        with np.errstate(divide="ignore"):  # a point mass: minus infinity
            pair = {"mean": (found_mean - mean) / sd, "log sd": np.log(found_sd / sd)}
        for kind, values in pair.items():
            kinds[kind].extend(values)
            for i, value in enumerate(values):
                errors[f"{site}[{i}] {kind}"] = abs(float(value))
    # NaN counts as the largest error
    where = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    return Score(_rms(kinds["mean"]), _rms(kinds["log sd"]), errors[where], where)


def truthful(status: str, worst: float) -> bool:
    """Whether the status is correct: certified and corrected draws are within the tolerance."""
    return status not in ("certified", "corrected") or worst <= TOLERANCE


def _location_scale(draws: np.ndarray, robust: bool) -> tuple[np.ndarray, np.ndarray]:
    flat = draws.reshape(len(draws), -1)
    if not robust:
        return flat.mean(0), flat.std(0, ddof=1)
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=0)
    return middle, (high - low) / _NORMAL_QUARTILES


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
