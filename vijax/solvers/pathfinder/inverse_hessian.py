"""Gaussians whose covariance is an L-BFGS inverse Hessian: a diagonal changed in a few directions.

`cov = A^(1/2) (I + B diag(scale^2 - 1) B') A^(1/2)` with `A` diagonal and `B` orthonormal `(dim,
rank)`: time and memory are linear in the dimension. Source: Representations of Quasi-Newton
Matrices and Their Use in Limited Memory Methods, Byrd, Nocedal, Schnabel, 1994, theorem 2.2; its
use for sampling, Pathfinder: Parallel Quasi-Newton Variational Inference, Zhang, Carpenter,
Gelman, Vehtari, 2022, algorithms 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import LOG_2PI, log_normal
from vijax.solvers.gaussians.low_rank import Factored
from vijax.solvers.optimization.paths import Path, positive_curvature, update_diagonal

_MEMORY = 4_000_000  # numbers in one stack of factors: 32 MB


class CompactGaussians(NamedTuple):
    """A stack of `num` Gaussians, diagonal plus low rank.

    Attributes:
        mean: `(num, dim)`.
        diagonal: `A`, `(num, dim)`.
        basis: `B`, orthonormal columns, `(num, dim, rank)`.
        scale: standard deviation along each column in units of `A`, `(num, rank)`.
    """

    mean: Floats
    diagonal: Floats
    basis: Floats
    scale: Floats

    def take(self, rows: np.ndarray) -> CompactGaussians:
        """Some of them."""
        return CompactGaussians(*(field[rows] for field in self))

    @property
    def log_det(self) -> Floats:
        """Half the log determinant of each covariance, `(num,)`."""
        return 0.5 * np.log(self.diagonal).sum(axis=1) + np.log(self.scale).sum(axis=1)

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num_draws, dim)`, shared, to draws `(num, num_draws, dim)`."""
        scaled = noise + self._along(np.broadcast_to(noise, (len(self.mean), *noise.shape)), 1)
        return self.mean[:, None] + np.sqrt(self.diagonal)[:, None] * scaled

    def log_prob(self, points: Floats) -> Floats:
        """Log density of `points` `(num_points, dim)` under each, `(num, num_points)`."""
        scaled = (points - self.mean[:, None]) / np.sqrt(self.diagonal)[:, None]
        return log_normal(scaled + self._along(scaled, -1), self.log_det[:, None])

    def one(self, i: int) -> Factored:
        """The `i`-th."""
        return Factored(self.mean[i], np.sqrt(self.diagonal[i]), self.basis[i], self.scale[i])

    def _along(self, vectors: Floats, power: int) -> Floats:
        """`B (diag(scale)^power - I) B'` times each vector; `vectors` is `(num, n, dim)`."""
        inner = np.matmul(vectors, self.basis) * (self.scale**power - 1)[:, None]
        return np.matmul(inner, np.swapaxes(self.basis, 1, 2))


class _Windows(NamedTuple):
    """For each chosen iterate: its diagonal and its last pairs, the newest last."""

    diagonal: Floats  # (num, dim)
    s: Floats  # (num, history, dim), zero rows first where there are fewer pairs
    y: Floats


def candidates(path: Path, chosen: np.ndarray, history: int) -> Iterator[CompactGaussians]:
    """Normal approximations `N(x + H g, H)` at the `chosen` iterates of a path, in stacks.

    Args:
        path: the path, all iterates kept.
        chosen: increasing positions in it, from 1.
        history: pairs in each inverse Hessian.
    """
    stack = max(1, _MEMORY // (2 * history * path.points.shape[1]))
    diagonals, pairs, order = _replay(path)
    for start in range(0, len(chosen), stack):
        rows = chosen[start : start + stack]
        yield _stack(path, rows, _windows(diagonals, pairs, order, rows, history))


def predicted_elbo(path: Path, chosen: np.ndarray, gaussians: CompactGaussians) -> Floats:
    """ELBO `(num,)` if the log density were the quadratic that L-BFGS believes in.

    `log p(x) + g' H g / 2 + log det(H)/2 + dim/2 log 2 pi`: costs no evaluation, and says which
    iterates are worth some.
    """
    gradient = path.gradient[chosen]
    gain = 0.5 * np.einsum("nd,nd->n", gradient, gaussians.mean - path.points[chosen])
    dim = gradient.shape[1]
    gain = np.minimum(gain, dim)  # beyond that the quadratic is not to be believed
    return path.log_density[chosen] + gain + gaussians.log_det + 0.5 * dim * LOG_2PI


def concatenate(stacks: list[CompactGaussians]) -> CompactGaussians:
    """Several stacks as one."""
    return CompactGaussians(*(np.concatenate(fields) for fields in zip(*stacks, strict=True)))


def _replay(path: Path) -> tuple[Floats, tuple[Floats, Floats], np.ndarray]:
    """Diagonals after each step `(steps, dim)`, usable pairs, and how many there were by then."""
    s, y = np.diff(path.points, axis=0), -np.diff(path.gradient, axis=0)
    good = positive_curvature(s, y)
    diagonals = np.ones_like(s)
    current = None
    for i in range(len(s)):
        if good[i]:
            if current is None:
                current = np.full((1, s.shape[1]), s[i] @ y[i] / (y[i] @ y[i]))
            current = update_diagonal(current, s[i : i + 1], y[i : i + 1])
        if current is not None:
            diagonals[i] = current[0]
    return diagonals, (s[good], y[good]), np.cumsum(good)


def _windows(
    diagonals: Floats,
    pairs: tuple[Floats, Floats],
    order: np.ndarray,
    rows: np.ndarray,
    history: int,
) -> _Windows:
    position = order[rows - 1, None] + np.arange(-history, 0)  # of each slot's pair
    padded = [np.concatenate([np.zeros((1, pair.shape[1])), pair]) for pair in pairs]
    s, y = (pair[np.maximum(position + 1, 0)] for pair in padded)
    return _Windows(diagonals[rows - 1], s, y)


def _stack(path: Path, rows: np.ndarray, windows: _Windows) -> CompactGaussians:
    diagonal, s, y = windows
    root = np.sqrt(diagonal)[:, None]
    left, right = y * root, s / root  # both `(num, history, dim)`, in units of the diagonal
    products = np.matmul(s, np.swapaxes(y, 1, 2))
    middle = _middle(products, np.matmul(left, np.swapaxes(left, 1, 2)))
    basis, triangle = np.linalg.qr(np.swapaxes(np.concatenate([left, right], axis=1), 1, 2))
    inner = np.matmul(np.matmul(triangle, middle), np.swapaxes(triangle, 1, 2))
    variance, rotation = np.linalg.eigh(0.5 * (inner + np.swapaxes(inner, 1, 2)))
    # positive in exact arithmetic; what rounding takes below is a direction of no variance
    scale = np.sqrt(np.maximum(1 + variance, 1e-12))
    basis = np.matmul(basis, rotation)
    gradient = path.gradient[rows] * root[:, 0]
    along = np.einsum("nd,ndr->nr", gradient, basis) * (scale**2 - 1)
    step = root[:, 0] * (gradient + np.einsum("nr,ndr->nd", along, basis))
    return CompactGaussians(path.points[rows] + step, diagonal, basis, scale)


def _middle(products: Floats, gram: Floats) -> Floats:
    """The `(2 history, 2 history)` matrix between the factors `[A Y, S]` of `H - A`.

    `[[0, -R^-1], [-R^-T, R^-T (E + Y'AY) R^-1]]` with `R` the upper triangle of `S'Y`, `E` its
    diagonal.
    """
    upper = np.triu(products)
    curvature = np.diagonal(products, axis1=1, axis2=2)
    eye = np.eye(products.shape[-1])
    # an unused slot has zero rows: a one on the diagonal makes it inert instead of singular
    inverse = np.linalg.inv(upper + eye * (curvature == 0)[:, None])
    transposed = np.swapaxes(inverse, 1, 2)
    corner = transposed @ (eye * curvature[:, None] + gram) @ inverse
    top = np.concatenate([np.zeros_like(inverse), -inverse], axis=2)
    return np.concatenate([top, np.concatenate([-transposed, corner], axis=2)], axis=1)
