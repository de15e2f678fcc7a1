"""Distance of a Gaussian guide from a stationary point of its ELBO, whatever optimizer was used.

At a maximum of the ELBO over Gaussians `N(m, S)` the gradients vanish, by the theorems of Bonnet
and Price: `E[g] = 0` and `S + E[(z - m) g'] S = 0` for the scores `g` of the target at draws `z`.
A natural-gradient step changes the mean by `S E[g]` and the covariance by `S + E[(z - m) g'] S`;
on a Gaussian target it ends at the optimum. Source: The variational Gaussian approximation
revisited, Opper, Archambeau, 2009.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Scores(Protocol):
    """Gradients of a log density at points; `Kernel` has them."""

    def is_costly(self, num: int) -> bool:
        """Whether `num` gradients take long."""

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities `(num,)` and gradients `(num, dim)`."""


class Stationarity(NamedTuple):
    """Changes that a natural-gradient step would make, by coordinate `(dim,)`.

    Attributes:
        mean: of the mean, in standard deviations of the guide.
        log_sd: of the log standard deviation, to first order.
        mean_se: standard error of `mean`.
        log_sd_se: standard error of `log_sd`.
    """

    mean: np.ndarray
    log_sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray

    @property
    def largest(self) -> tuple[float, float]:
        """The largest change of a mean and of a log sd in excess of noise."""
        worst = np.sqrt(2 * np.log(2 * self.mean.size))
        mean = np.maximum(np.abs(self.mean) - worst * self.mean_se, 0.0)
        log_sd = np.maximum(np.abs(self.log_sd) - worst * self.log_sd_se, 0.0)
        return float(mean.max()), float(log_sd.max())


def stationarity(draws: np.ndarray, scores: np.ndarray, covariance: np.ndarray) -> Stationarity:
    """The natural-gradient step estimated from draws and scores.

    Args:
        draws: from the guide, `(num_draws, dim)`.
        scores: gradients of the target's log density at the draws, `(num_draws, dim)`.
        covariance: the guide's, `(dim, dim)`.
    """
    sd = np.sqrt(np.diag(covariance))
    steps = scores @ covariance  # S g for every draw
    centered = draws - draws.mean(axis=0)
    num = len(draws)
    mean = steps / sd
    log_sd = 0.5 * (1 + centered * steps / sd**2)
    root = np.sqrt(num)
    return Stationarity(
        mean.mean(axis=0), log_sd.mean(axis=0), mean.std(axis=0) / root, log_sd.std(axis=0) / root
    )
