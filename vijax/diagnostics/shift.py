"""Change of the moments of a guide by importance correction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Shift(NamedTuple):
    """Change of the guide's moments by importance correction, by unconstrained coordinate.

    Attributes:
        mean: change of the mean in posterior standard deviations, `(dim,)`.
        log_sd: change of the log standard deviation, `(dim,)`.
    """

    mean: np.ndarray
    log_sd: np.ndarray


def shift(draws: np.ndarray, log_weights: np.ndarray) -> Shift:
    """Weighted moments of `(num_draws, dim)` draws relative to their unweighted moments.

    Args:
        draws: `(num_draws, dim)`.
        log_weights: normalized, `(num_draws,)`.
    """
    weight = np.exp(log_weights)[:, None]
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    corrected = (weight * draws).sum(0)
    variance = (weight * (draws - corrected) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = Shift((corrected - mean) / sd, 0.5 * np.log(variance / sd**2))
    # weighting does not change a coordinate that is constant, as that of a discrete site may be
    return Shift(*(np.where(sd == 0, 0.0, part) for part in moved))
