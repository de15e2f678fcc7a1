"""Stacks of dense Gaussians, with a leading axis of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import Gaussian, log_normal


class Gaussians(NamedTuple):
    """`N(mean, factor factor')` for each row.

    Attributes:
        mean: `(rows, dim)`.
        factor: square roots of the covariances, `(rows, dim, dim)`.
    """

    mean: Floats
    factor: Floats

    def take(self, rows: np.ndarray) -> Gaussians:
        """Those of some rows."""
        return Gaussians(self.mean[rows], self.factor[rows])

    def put(self, rows: np.ndarray, others: Gaussians) -> None:
        """Replaces some rows."""
        self.mean[rows], self.factor[rows] = others

    def copy(self) -> Gaussians:
        """A copy."""
        return Gaussians(self.mean.copy(), self.factor.copy())

    def row(self, i: int) -> Gaussian:
        """One of them."""
        return Gaussian(self.mean[i], self.factor[i])

    @property
    def log_det(self) -> Floats:
        """Half the log determinants of the covariances, `(rows,)`."""
        return np.linalg.slogdet(self.factor)[1]

    @property
    def covariance(self) -> Floats:
        """`(rows, dim, dim)`."""
        return self.factor @ np.swapaxes(self.factor, 1, 2)

    def transform(self, noise: Floats) -> Floats:
        """Draws `(rows, num, dim)` from standard normal `noise` `(rows, num, dim)`."""
        return self.mean[:, None] + noise @ np.swapaxes(self.factor, 1, 2)


def stack(gaussians: list[Gaussian]) -> Gaussians:
    """Several Gaussians as one stack."""
    means, factors = zip(*gaussians, strict=True)
    return Gaussians(np.stack(means), np.stack(factors))


def log_normals(noise: Floats, log_det: Floats) -> Floats:
    """Log densities `(rows, num)` at draws of standard normal `noise` `(rows, num, dim)`."""
    return log_normal(noise, log_det[:, None])


def kullback_leibler(one: Gaussians, other: Gaussians) -> Floats:
    """`KL(one || other)` by row, in nats, `(rows,)`."""
    inverse = np.linalg.inv(other.factor)
    ratio = inverse @ one.factor
    shift = np.einsum("rij,rj->ri", inverse, one.mean - other.mean)
    trace = np.einsum("rij,rij->r", ratio, ratio) + np.einsum("ri,ri->r", shift, shift)
    return 0.5 * (trace - one.mean.shape[1]) - np.linalg.slogdet(ratio)[1]
