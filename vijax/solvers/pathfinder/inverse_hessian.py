"""Gaussians whose covariance is an L-BFGS inverse Hessian: diagonal plus low rank.

`cov = A^(1/2) (I + B diag(axis_sd^2 - 1) B') A^(1/2)` with `A` diagonal and `B` orthonormal `(dim,
rank)`: time and memory are linear in the dimension. Source: Representations of Quasi-Newton
Matrices and Their Use in Limited Memory Methods, Byrd, Nocedal, Schnabel, 1994, theorem 2.2; its
use for sampling, Pathfinder: Parallel Quasi-Newton Variational Inference, Zhang, Carpenter, Gelman,
Vehtari, 2022, algorithms 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import LOG_2PI, log_normal
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.optimization.paths import Path, positive_curvature, update_diagonal

_MAX_ELEMENTS = 4_000_000  # array elements in one stack of factors: 32 MB


class CompactGaussians(NamedTuple):
    """A stack of `num` Gaussians with diagonal plus low-rank covariances.

    Attributes:
        mean: `(num, dim)`.
        diagonal: `A`, `(num, dim)`.
        basis: `B`, orthonormal columns, `(num, dim, rank)`.
        axis_sd: standard deviation along each column in units of `A^(1/2)`, `(num, rank)`.
    """

    mean: Floats
    diagonal: Floats
    basis: Floats
    axis_sd: Floats

    def take(self, rows: np.ndarray) -> CompactGaussians:
        """The Gaussians with these indices."""
        return CompactGaussians(*(field[rows] for field in self))

    @property
    def log_det(self) -> Floats:
        """Half the log determinant of each covariance, `(num,)`."""
        return 0.5 * np.log(self.diagonal).sum(axis=1) + np.log(self.axis_sd).sum(axis=1)

    def transform(self, noise: Floats) -> Floats:
        """Draws `(num, num_draws, dim)` from common standard normal `noise` `(num_draws, dim)`."""
        scaled = noise + self._low_rank_term(
            np.broadcast_to(noise, (len(self.mean), *noise.shape)), 1
        )
        return self.mean[:, None] + np.sqrt(self.diagonal)[:, None] * scaled

    def log_prob(self, points: Floats) -> Floats:
        """Log density of `points` `(num_points, dim)` under each, `(num, num_points)`."""
        scaled = (points - self.mean[:, None]) / np.sqrt(self.diagonal)[:, None]
        return log_normal(scaled + self._low_rank_term(scaled, -1), self.log_det[:, None])

    def component(self, i: int) -> LowRankGaussian:
        """The `i`-th Gaussian."""
        return LowRankGaussian(
            self.mean[i], np.sqrt(self.diagonal[i]), self.basis[i], self.axis_sd[i]
        )

    def _low_rank_term(self, vectors: Floats, power: int) -> Floats:
        """`B (diag(axis_sd)^power - I) B'` times each vector of `vectors` `(num, n, dim)`."""
        inner = np.matmul(vectors, self.basis) * (self.axis_sd**power - 1)[:, None]
        return np.matmul(inner, np.swapaxes(self.basis, 1, 2))


class _PairHistory(NamedTuple):
    """The diagonal and the last pairs, most recent last, at each of some iterates."""

    diagonal: Floats  # (num, dim)
    s: Floats  # (num, history, dim), zero rows first where there are fewer pairs
    y: Floats


def normal_approximations(
    path: Path, iterates: np.ndarray, history: int
) -> Iterator[CompactGaussians]:
    """Normal approximations `N(x + H g, H)` at `iterates` of a path, in stacks.

    Args:
        path: the path with all iterates kept.
        iterates: increasing indices, from 1.
        history: number of pairs in each inverse Hessian.
    """
    stack = max(1, _MAX_ELEMENTS // (2 * history * path.points.shape[1]))
    diagonals, pairs, num_pairs = _diagonals_and_pairs(path)
    for start in range(0, len(iterates), stack):
        rows = iterates[start : start + stack]
        yield _compact_gaussians(
            path, rows, _pair_histories(diagonals, pairs, num_pairs, rows, history)
        )


def predicted_elbo(path: Path, iterates: np.ndarray, gaussians: CompactGaussians) -> Floats:
    """ELBO `(num,)` if the log density were the quadratic model of L-BFGS.

    `log p(x) + g' H g / 2 + log det(H)/2 + dim/2 log 2 pi`. Takes no evaluation, and serves to
    preselect the iterates to evaluate.
    """
    gradient = path.gradient[iterates]
    gain = 0.5 * np.einsum("nd,nd->n", gradient, gaussians.mean - path.points[iterates])
    dim = gradient.shape[1]
    gain = np.minimum(gain, dim)  # beyond that the quadratic model is unreliable
    return path.log_density[iterates] + gain + gaussians.log_det + 0.5 * dim * LOG_2PI


def concatenate(stacks: list[CompactGaussians]) -> CompactGaussians:
    """Concatenates several stacks."""
    return CompactGaussians(*(np.concatenate(fields) for fields in zip(*stacks, strict=True)))


def _diagonals_and_pairs(path: Path) -> tuple[Floats, tuple[Floats, Floats], np.ndarray]:
    """Diagonals after each step `(steps, dim)`, valid pairs, and their cumulative number."""
    s, y = np.diff(path.points, axis=0), -np.diff(path.gradient, axis=0)
    valid = positive_curvature(s, y)
    diagonals = np.ones_like(s)
    current = None
    for i in range(len(s)):
        if valid[i]:
            if current is None:
                current = np.full((1, s.shape[1]), s[i] @ y[i] / (y[i] @ y[i]))
            current = update_diagonal(current, s[i : i + 1], y[i : i + 1])
        if current is not None:
            diagonals[i] = current[0]
    return diagonals, (s[valid], y[valid]), np.cumsum(valid)


def _pair_histories(
    diagonals: Floats,
    pairs: tuple[Floats, Floats],
    num_pairs: np.ndarray,
    rows: np.ndarray,
    history: int,
) -> _PairHistory:
    position = num_pairs[rows - 1, None] + np.arange(-history, 0)  # index of the pair in each slot
    padded = [np.concatenate([np.zeros((1, pair.shape[1])), pair]) for pair in pairs]
    s, y = (pair[np.maximum(position + 1, 0)] for pair in padded)
    return _PairHistory(diagonals[rows - 1], s, y)


def _compact_gaussians(
    path: Path, rows: np.ndarray, pair_histories: _PairHistory
) -> CompactGaussians:
    diagonal, s, y = pair_histories
    root = np.sqrt(diagonal)[:, None]
    left, right = y * root, s / root  # both `(num, history, dim)`, in units of the diagonal
    products = np.matmul(s, np.swapaxes(y, 1, 2))
    middle = _middle(products, np.matmul(left, np.swapaxes(left, 1, 2)))
    basis, triangle = np.linalg.qr(np.swapaxes(np.concatenate([left, right], axis=1), 1, 2))
    inner = np.matmul(np.matmul(triangle, middle), np.swapaxes(triangle, 1, 2))
    variance, rotation = np.linalg.eigh(0.5 * (inner + np.swapaxes(inner, 1, 2)))
    # positive in exact arithmetic; the bound guards against rounding
    axis_sd = np.sqrt(np.maximum(1 + variance, 1e-12))
    basis = np.matmul(basis, rotation)
    gradient = path.gradient[rows] * root[:, 0]
    along = np.einsum("nd,ndr->nr", gradient, basis) * (axis_sd**2 - 1)
    step = root[:, 0] * (gradient + np.einsum("nr,ndr->nd", along, basis))
    return CompactGaussians(path.points[rows] + step, diagonal, basis, axis_sd)


def _middle(products: Floats, gram: Floats) -> Floats:
    """The `(2 history, 2 history)` middle matrix between the factors `[A Y, S]` of `H - A`.

    `[[0, -R^-1], [-R^-T, R^-T (E + Y'AY) R^-1]]` with `R` the upper triangle of `S'Y`, `E` its
    diagonal.
    """
    upper = np.triu(products)
    curvature = np.diagonal(products, axis1=1, axis2=2)
    eye = np.eye(products.shape[-1])
    # an unused slot has zero rows: a one on the diagonal avoids a singular matrix
    inverse = np.linalg.inv(upper + eye * (curvature == 0)[:, None])
    transposed = np.swapaxes(inverse, 1, 2)
    corner = transposed @ (eye * curvature[:, None] + gram) @ inverse
    top = np.concatenate([np.zeros_like(inverse), -inverse], axis=2)
    return np.concatenate([top, np.concatenate([-transposed, corner], axis=2)], axis=1)
