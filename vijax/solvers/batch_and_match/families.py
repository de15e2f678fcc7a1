"""The families that batch and match optimizes over: dense and low-rank Gaussians."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.batch_and_match.dense_update import Step, update
from vijax.solvers.batch_and_match.low_rank_update import LowRankAverage, low_rank_update
from vijax.solvers.gaussians.dense import Gaussian, from_moments
from vijax.solvers.gaussians.low_rank import LowRankGaussian, low_rank_approximation


class MomentAverage(Protocol):
    """The Gaussian with the weighted mean of the moments of several Gaussians."""

    def add(self, gaussian: Any, weight: float) -> None:
        """Adds a Gaussian; the weights sum to one."""

    def gaussian(self) -> Any:
        """The result, `None` if its covariance is not positive definite."""


class Family(Protocol):
    """A family of Gaussians with the operations of batch and match."""

    patience: ClassVar[int]  # windows compared to determine whether the ELBO still increases

    def order(self, dim: int) -> int:
        """Order of the largest square matrices in the algebra of its members."""

    def approximate(self, gaussian: Gaussian | LowRankGaussian) -> Any:
        """A member that approximates a Gaussian."""

    def update(self, current: Any, noise: Floats, gradient: Floats, lam: float) -> Step | None:
        """One step within the family, `None` if the result is not finite."""

    def empty_average(self, dim: int) -> MomentAverage:
        """An empty average of members."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """All Gaussians."""

    patience: ClassVar[int] = 1

    def order(self, dim: int) -> int:
        return dim

    def approximate(self, gaussian: Gaussian | LowRankGaussian) -> Gaussian:
        return Gaussian(gaussian.mean, gaussian.factor)

    def update(self, current: Gaussian, noise: Floats, gradient: Floats, lam: float) -> Step | None:
        return update(current, noise, gradient, lam)

    def empty_average(self, dim: int) -> MomentAverage:
        return _DenseAverage(dim)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Gaussians with a covariance of a diagonal plus at most `rank` directions."""

    patience: ClassVar[int] = 5  # in thousands of dimensions the noise of one hides a nat
    rank: int

    def order(self, dim: int) -> int:
        return self.rank

    def approximate(self, gaussian: Gaussian | LowRankGaussian) -> LowRankGaussian:
        return low_rank_approximation(gaussian, self.rank)

    def update(
        self, current: LowRankGaussian, noise: Floats, gradient: Floats, lam: float
    ) -> Step | None:
        return low_rank_update(current, noise, gradient, lam, self.rank)

    def empty_average(self, dim: int) -> MomentAverage:
        return LowRankAverage(self.rank)


def family_of(gaussian: Gaussian | LowRankGaussian) -> Family:
    """The family of a Gaussian."""
    return LowRank(gaussian.rank) if isinstance(gaussian, LowRankGaussian) else Dense()


class _DenseAverage:
    def __init__(self, dim: int) -> None:
        self.first, self.second = np.zeros(dim), np.zeros((dim, dim))

    def add(self, gaussian: Gaussian, weight: float) -> None:
        self.first += weight * gaussian.mean
        self.second += weight * gaussian.covariance

    def gaussian(self) -> Gaussian | None:
        return from_moments(self.first, self.second)
