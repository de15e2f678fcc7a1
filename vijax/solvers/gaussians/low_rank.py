"""Gaussians with a diagonal plus low-rank covariance, on the host in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import Gaussian, log_normal


class LowRankGaussian(NamedTuple):
    """`N(mean, S (I + U diag(axis_sd^2 - 1) U') S)` with `S = diag(scale)`.

    Time and memory are linear in the dimension. It has the properties of `Gaussian`; those that are
    `(dim, dim)` arrays are computed on access.

    Attributes:
        mean: `(dim,)`.
        scale: `(dim,)`.
        basis: `U`, orthonormal columns, `(dim, rank)`.
        axis_sd: standard deviation along each column in units of `scale`, `(rank,)`.
    """

    mean: Floats
    scale: Floats
    basis: Floats
    axis_sd: Floats

    @property
    def rank(self) -> int:
        """Number of columns of the basis."""
        return self.basis.shape[1]

    @property
    def factor(self) -> Floats:
        """A square root `(dim, dim)` of the covariance, symmetric up to the scales."""
        return (self.scale * self.apply_power(np.eye(len(self.scale)))).T

    @property
    def dense(self) -> Gaussian:
        """The same Gaussian with a dense factor."""
        return Gaussian(self.mean, self.factor)

    @property
    def covariance(self) -> Floats:
        """Covariance `(dim, dim)`."""
        return self.dense.covariance

    @property
    def cholesky(self) -> Floats:
        """Lower Cholesky factor of the covariance, `(dim, dim)`, with a positive diagonal."""
        return self.dense.cholesky

    @property
    def sd(self) -> Floats:
        """Standard deviation of each coordinate, `(dim,)`."""
        return self.scale * np.sqrt(self.diagonal(2))

    @property
    def conditional_sd(self) -> Floats:
        """Standard deviation of each coordinate given all others, `1 / sqrt(precision_ii)`."""
        return self.scale / np.sqrt(self.diagonal(-2))

    @property
    def log_det(self) -> float:
        """Half the log determinant of the covariance."""
        return float(np.log(self.scale).sum() + np.log(self.axis_sd).sum())

    def transform(self, noise: Floats) -> Floats:
        """Maps standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + self.scale * self.apply_power(noise)

    def log_prob(self, points: Floats) -> Floats:
        """Normalized log density at `points` `(num, dim)`."""
        return log_normal(self.apply_power((points - self.mean) / self.scale, -1), self.log_det)

    def scaled(self, factor: float) -> LowRankGaussian:
        """The Gaussian with all standard deviations multiplied by `factor`."""
        return self._replace(scale=factor * self.scale)

    def project(self, span: Floats) -> LowRankGaussian:
        """The Gaussian of the coordinates along `span`, relative to the mean in units of `scale`.

        Exact if the orthonormal columns `(dim, num)` span the basis: the orthogonal complement is
        standard normal.
        """
        num = span.shape[1]
        return LowRankGaussian(np.zeros(num), np.ones(num), span.T @ self.basis, self.axis_sd)

    def apply_power(self, rows: Floats, power: float = 1) -> Floats:
        """`rows (I + U diag(axis_sd^power - 1) U')`, `(num, dim)`."""
        return rows + (rows @ self.basis * (self.axis_sd**power - 1)) @ self.basis.T

    def diagonal(self, power: float) -> Floats:
        """Diagonal of `I + U diag(axis_sd^power - 1) U'`, `(dim,)`."""
        return 1 + self.basis**2 @ (self.axis_sd**power - 1)


def low_rank_approximation(gaussian: Gaussian | LowRankGaussian, rank: int) -> LowRankGaussian:
    """An approximation of a Gaussian with at most `rank` directions, all with `axis_sd` above one.

    Keeps the directions of largest variance. The diagonal is rescaled to keep the precision of
    every coordinate, which is stationary for `KL(q || gaussian)` at fixed directions.
    """
    if isinstance(gaussian, Gaussian):
        scale = gaussian.conditional_sd
        basis, axis_sd, _ = np.linalg.svd(gaussian.factor / scale[:, None])
        gaussian = LowRankGaussian(gaussian.mean, scale, basis, axis_sd)
    truncated = truncate(gaussian, rank)
    return rescale_diagonal(truncated, np.sqrt(truncated.diagonal(-2) / gaussian.diagonal(-2)))


def truncate(gaussian: LowRankGaussian, rank: int) -> LowRankGaussian:
    """Keeps the `rank` directions of largest variance, of those with `axis_sd` above one."""
    order = np.argsort(-gaussian.axis_sd)[:rank]
    order = order[gaussian.axis_sd[order] > 1]
    return gaussian._replace(basis=gaussian.basis[:, order], axis_sd=gaussian.axis_sd[order])


def rescale_diagonal(gaussian: LowRankGaussian, factors: Floats) -> LowRankGaussian:
    """The Gaussian with the sds of its diagonal part multiplied by `factors` `(dim,)`."""
    loadings = gaussian.basis * np.sqrt(gaussian.axis_sd**2 - 1) / factors[:, None]
    basis, singular_values, _ = np.linalg.svd(loadings, full_matrices=False)
    return LowRankGaussian(
        gaussian.mean, gaussian.scale * factors, basis, np.sqrt(1 + singular_values**2)
    )
