"""A Gaussian whose covariance is a diagonal plus a few directions, on the host in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import Gaussian, log_normal


class Factored(NamedTuple):
    """`N(mean, S (I + U diag(stretch^2 - 1) U') S)` with `S = diag(scale)`.

    Time and memory are linear in the dimension. It has the properties of `Gaussian`; those that
    need `(dim, dim)` arrays make them when they are asked for.

    Attributes:
        mean: `(dim,)`.
        scale: `(dim,)`.
        basis: `U`, orthonormal columns, `(dim, rank)`.
        stretch: standard deviation along each column in units of `scale`, `(rank,)`.
    """

    mean: Floats
    scale: Floats
    basis: Floats
    stretch: Floats

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.basis.shape[1]

    @property
    def factor(self) -> Floats:
        """A square root `(dim, dim)` of the covariance, symmetric up to the scales."""
        return (self.scale * self.turn(np.eye(len(self.scale)))).T

    @property
    def dense(self) -> Gaussian:
        """The same Gaussian with its factor written out."""
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
        return float(np.log(self.scale).sum() + np.log(self.stretch).sum())

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + self.scale * self.turn(noise)

    def log_prob(self, points: Floats) -> Floats:
        """Normalized log density at `points` `(num, dim)`."""
        return log_normal(self.turn((points - self.mean) / self.scale, -1), self.log_det)

    def scaled(self, by: float) -> Factored:
        """The Gaussian with all standard deviations multiplied."""
        return self._replace(scale=by * self.scale)

    def within(self, span: Floats) -> Factored:
        """The Gaussian of the coordinates, from the mean in units of `scale`, along `span`.

        Exact if the orthonormal columns `(dim, num)` span the basis: the rest is standard normal.
        """
        num = span.shape[1]
        return Factored(np.zeros(num), np.ones(num), span.T @ self.basis, self.stretch)

    def turn(self, rows: Floats, power: float = 1) -> Floats:
        """`rows (I + U diag(stretch^power - 1) U')`, `(num, dim)`."""
        return rows + (rows @ self.basis * (self.stretch**power - 1)) @ self.basis.T

    def diagonal(self, power: float) -> Floats:
        """Diagonal of `I + U diag(stretch^power - 1) U'`, `(dim,)`."""
        return 1 + self.basis**2 @ (self.stretch**power - 1)


def nearest(gaussian: Gaussian | Factored, rank: int) -> Factored:
    """A member of at most `rank` directions, none of them narrowing, near a Gaussian.

    Keeps the widest directions. The others leave a diagonal behind that gives every coordinate
    the given precision: stationary for `KL(q || gaussian)` at fixed directions.
    """
    if isinstance(gaussian, Gaussian):
        scale = gaussian.conditional_sd
        basis, stretch, _ = np.linalg.svd(gaussian.factor / scale[:, None])
        gaussian = Factored(gaussian.mean, scale, basis, stretch)
    kept = widest(gaussian, rank)
    return rescaled(kept, np.sqrt(kept.diagonal(-2) / gaussian.diagonal(-2)))


def widest(gaussian: Factored, rank: int) -> Factored:
    """The Gaussian with its `rank` widest directions, without those that narrow."""
    order = np.argsort(-gaussian.stretch)[:rank]
    order = order[gaussian.stretch[order] > 1]
    return gaussian._replace(basis=gaussian.basis[:, order], stretch=gaussian.stretch[order])


def rescaled(gaussian: Factored, by: Floats) -> Factored:
    """The Gaussian with the sds of its diagonal part multiplied by `by` `(dim,)`."""
    loadings = gaussian.basis * np.sqrt(gaussian.stretch**2 - 1) / by[:, None]
    basis, lengths, _ = np.linalg.svd(loadings, full_matrices=False)
    return Factored(gaussian.mean, gaussian.scale * by, basis, np.sqrt(1 + lengths**2))
