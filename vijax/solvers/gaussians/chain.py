"""Gaussian Markov chains: block-tridiagonal precisions on the host, linear in the length."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.structure import Structure, pivots

_NUM_COLORS = 3  # blocks with a distance of three share no neighbor and are probed together


class Tridiagonal(NamedTuple):
    """A symmetric block-tridiagonal matrix.

    Attributes:
        diagonal: diagonal blocks `(length, width, width)`.
        below: subdiagonal blocks, `t` in row `t + 1` and column `t`, `(length - 1, width, width)`.
    """

    diagonal: Floats
    below: Floats


class Conditionals(NamedTuple):
    """The Markov chain `x_t = gain_t x_(t-1) + noise` of a precision, for zero mean.

    Attributes:
        covariance: noise covariances, `(length, width, width)`.
        gain: `(length, width, width)`, the first zero.
    """

    covariance: Floats
    gain: Floats


class Chain(Structure):
    """The block-tridiagonal structure.

    Args:
        coords: indices of the coordinates of each block, `(length, width)`.
    """

    def __init__(self, coords: np.ndarray) -> None:
        self.coords = coords
        self.dim = coords.size

    def diagonal(self, values: Floats) -> Tridiagonal:
        length, width = self.coords.shape
        blocks = values[self.coords][:, :, None] * np.eye(width)
        return Tridiagonal(blocks, np.zeros((length - 1, width, width)))

    def estimate_blocks(
        self,
        products: Callable[[Floats], Floats],
        num: int,
        rng: np.random.Generator,
        conditionals: Conditionals,
    ) -> Tridiagonal:
        length, width = self.coords.shape
        diagonal, below = (np.zeros_like(part) for part in self.diagonal(np.zeros(self.dim)))
        signs = rng.choice([-1.0, 1.0], (num, length, 1))
        for color in range(min(_NUM_COLORS, length)):
            rows = np.arange(color, length, _NUM_COLORS)
            successors = rows[rows + 1 < length]
            for j in range(width):
                vectors = np.zeros((num, self.dim))
                vectors[:, self.coords[rows, j]] = signs[:, rows, 0]
                image = products(vectors)[:, self.coords]
                diagonal[rows, :, j] = np.mean(signs[:, rows] * image[:, rows], axis=0)
                below[successors, :, j] = np.mean(
                    signs[:, successors] * image[:, successors + 1], axis=0
                )
        return Tridiagonal(0.5 * (diagonal + np.swapaxes(diagonal, 1, 2)), below)

    def eliminate(
        self, blocks: Tridiagonal, previous: Conditionals | None
    ) -> tuple[Tridiagonal, Conditionals]:
        """Backward block elimination: `S_t = D_t - B_t' S_(t+1)^-1 B_t`."""
        diagonal, below = blocks.diagonal.copy(), blocks.below
        covariance, gain = np.zeros_like(diagonal), np.zeros_like(diagonal)
        fill_in = np.zeros_like(diagonal[:1])
        for t in range(len(diagonal) - 1, -1, -1):
            current = slice(t, t + 1)
            old = None if previous is None else previous.covariance[current]
            pivot, covariance[current] = pivots(diagonal[current] + fill_in, old)
            diagonal[current] = pivot - fill_in
            if t:
                gain[t] = -covariance[t] @ below[t - 1]
                fill_in = (below[t - 1].T @ gain[t])[None]
        return Tridiagonal(diagonal, below), Conditionals(covariance, gain)

    def solve(self, conditionals: Conditionals, rhs: Floats) -> Floats:
        covariance, gain = conditionals
        reduced = rhs[self.coords]
        for t in range(len(reduced) - 1, 0, -1):
            reduced[t - 1] += gain[t].T @ reduced[t]
        out = np.einsum("tij,tj->ti", covariance, reduced)
        for t in range(1, len(out)):
            out[t] += gain[t] @ out[t - 1]
        return self._flat(out)

    def draws(self, conditionals: Conditionals, noise: Floats) -> Floats:
        covariance, gain = conditionals
        root = np.linalg.cholesky(covariance)
        out = np.einsum("tij,ntj->nti", root, noise[:, self.coords])
        for t in range(1, len(covariance)):
            out[:, t] += out[:, t - 1] @ gain[t].T
        return self._flat(out)

    def log_det(self, conditionals: Conditionals) -> float:
        return float(0.5 * np.linalg.slogdet(conditionals.covariance)[1].sum())

    def sds(self, conditionals: Conditionals) -> Floats:
        covariance, gain = conditionals
        out, current = np.zeros(covariance.shape[:2]), np.zeros_like(covariance[0])
        for t in range(len(covariance)):
            current = gain[t] @ current @ gain[t].T + covariance[t]
            out[t] = np.sqrt(np.diag(current))
        return self._flat(out)

    def blocks(self, conditionals: Conditionals) -> Tridiagonal:
        covariance, gain = conditionals
        diagonal = np.linalg.inv(covariance)
        below = -diagonal[1:] @ gain[1:]
        diagonal[:-1] -= np.swapaxes(below, 1, 2) @ gain[1:]
        return Tridiagonal(diagonal, below)

    def diagonal_of(self, blocks: Tridiagonal) -> Floats:
        return self._flat(np.einsum("tii->ti", blocks.diagonal))

    def _flat(self, stacked: Floats) -> Floats:
        """Blocks `(..., length, width)` as vectors `(..., dim)`."""
        out = np.empty((*stacked.shape[:-2], self.dim))
        out[..., self.coords] = stacked
        return out
