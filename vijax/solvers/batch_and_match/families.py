"""The families that batch and match moves in: dense Gaussians, and diagonal plus low rank."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.batch_and_match.dense_update import Step, update
from vijax.solvers.batch_and_match.low_rank_update import FactoredMean, patched_update
from vijax.solvers.gaussians.dense import Gaussian, from_moments
from vijax.solvers.gaussians.low_rank import LowRankGaussian, low_rank_approximation


class Mean(Protocol):
    """The Gaussian with the mean moments of several."""

    def add(self, gaussian: Any, weight: float) -> None:
        """One more; weights add up to one."""

    def gaussian(self) -> Any:
        """The result, `None` where it is no Gaussian."""


class Family(Protocol):
    """What batch and match needs to know about Gaussians of one kind."""

    patience: ClassVar[int]  # windows that are compared to tell whether the ELBO still rises

    def order(self, dim: int) -> int:
        """Of the square matrices that its members are made of."""

    def adopt(self, gaussian: Gaussian | LowRankGaussian) -> Any:
        """A member near any Gaussian."""

    def update(self, current: Any, noise: Floats, gradient: Floats, lam: float) -> Step | None:
        """One step from a member to another, `None` if it comes out non-finite."""

    def mean(self, dim: int) -> Mean:
        """An empty mean of members."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """All Gaussians."""

    patience: ClassVar[int] = 1

    def order(self, dim: int) -> int:
        return dim

    def adopt(self, gaussian: Gaussian | LowRankGaussian) -> Gaussian:
        return Gaussian(gaussian.mean, gaussian.factor)

    def update(self, current: Gaussian, noise: Floats, gradient: Floats, lam: float) -> Step | None:
        return update(current, noise, gradient, lam)

    def mean(self, dim: int) -> Mean:
        return _DenseMean(dim)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """A diagonal plus at most `rank` directions."""

    patience: ClassVar[int] = 5  # in thousands of dimensions a nat hides in the noise of one
    rank: int

    def order(self, dim: int) -> int:
        return self.rank

    def adopt(self, gaussian: Gaussian | LowRankGaussian) -> LowRankGaussian:
        return low_rank_approximation(gaussian, self.rank)

    def update(
        self, current: LowRankGaussian, noise: Floats, gradient: Floats, lam: float
    ) -> Step | None:
        return patched_update(current, noise, gradient, lam, self.rank)

    def mean(self, dim: int) -> Mean:
        return FactoredMean(self.rank)


def family_of(gaussian: Gaussian | LowRankGaussian) -> Family:
    """The family that a Gaussian is a member of."""
    return LowRank(gaussian.rank) if isinstance(gaussian, LowRankGaussian) else Dense()


class _DenseMean:
    def __init__(self, dim: int) -> None:
        self.first, self.second = np.zeros(dim), np.zeros((dim, dim))

    def add(self, gaussian: Gaussian, weight: float) -> None:
        self.first += weight * gaussian.mean
        self.second += weight * gaussian.covariance

    def gaussian(self) -> Gaussian | None:
        return from_moments(self.first, self.second)
