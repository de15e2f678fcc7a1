"""Gaussians with a block-sparse precision, on the host: the operations that a structure provides.

A structure orders the blocks of coordinates so that block elimination has no fill-in. Each block is
then a linear map of preceding blocks plus independent noise, and all algebra is linear in the
number of non-zero blocks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.contracts.kernel import Floats

Blocks = Any  # blocks of a precision: a tree of arrays, laid out by the structure
Conditionals = Any  # linear maps and noise covariances, as a tree of arrays

MIN_RATIO = 0.01  # smallest factor by which a step changes a conditional precision along any axis


class Structure(abc.ABC):
    """The sparsity pattern of a precision and the algebra on it; vectors are `(dim,)`."""

    dim: int

    @abc.abstractmethod
    def diagonal(self, values: Floats) -> Blocks:
        """The blocks of a diagonal matrix, from its diagonal."""

    @abc.abstractmethod
    def estimate_blocks(
        self,
        products: Callable[[Floats], Floats],
        num: int,
        rng: np.random.Generator,
        conditionals: Conditionals,
    ) -> Blocks:
        """The blocks of the mean of `num` symmetric matrices, from few matrix-vector products.

        A vector that is non-zero in many blocks probes a column of each (graph coloring). Random
        signs make the contribution of entries outside the sparsity pattern average to zero.
        Sources: Efficient Estimation of Sparse Jacobian Matrices, Curtis, Powell, Reid, 1974; An
        estimator for the diagonal of a matrix, Bekas, Kokiopoulou, Saad, 2007.

        Args:
            products: each matrix times the vector of the same row, `(num, dim)` to `(num, dim)`.
            num: number of matrices.
            rng: source of the signs.
            conditionals: the current conditionals.
        """

    @abc.abstractmethod
    def eliminate(
        self, blocks: Blocks, previous: Conditionals | None
    ) -> tuple[Blocks, Conditionals]:
        """The conditionals of a precision, with conditional precisions bounded below.

        Where one along some axis is below `MIN_RATIO` times its `previous` value, or negative, it
        is raised to that; the blocks returned are those of the resulting precision.

        Raises:
            LinAlgError: `previous` is `None` and the precision is not positive definite.
        """

    @abc.abstractmethod
    def solve(self, conditionals: Conditionals, rhs: Floats) -> Floats:
        """`precision^-1 rhs`."""

    @abc.abstractmethod
    def draws(self, conditionals: Conditionals, noise: Floats) -> Floats:
        """Zero-mean draws `(num, dim)` from standard normal `noise` `(num, dim)`."""

    @abc.abstractmethod
    def log_det(self, conditionals: Conditionals) -> float:
        """Half the log determinant of the covariance."""

    @abc.abstractmethod
    def sds(self, conditionals: Conditionals) -> Floats:
        """Marginal standard deviations."""

    @abc.abstractmethod
    def blocks(self, conditionals: Conditionals) -> Blocks:
        """The blocks of the precision; the inverse of `eliminate`."""

    @abc.abstractmethod
    def diagonal_of(self, blocks: Blocks) -> Floats:
        """The diagonal of a matrix, from its blocks."""


class StructuredGaussian(NamedTuple):
    """A Gaussian with a block-sparse precision, in float64.

    Attributes:
        structure: sparsity pattern of the precision.
        mean: `(dim,)`.
        conditionals: linear maps and noise covariances, laid out by the structure.
    """

    structure: Structure
    mean: Floats
    conditionals: Conditionals

    @property
    def sd(self) -> Floats:
        """Standard deviation of each coordinate, `(dim,)`."""
        return self.structure.sds(self.conditionals)

    @property
    def conditional_sd(self) -> Floats:
        """Standard deviation of each coordinate given all others, `(dim,)`."""
        blocks = self.structure.blocks(self.conditionals)
        return 1 / np.sqrt(self.structure.diagonal_of(blocks))

    @property
    def log_det(self) -> float:
        """Half the log determinant of the covariance."""
        return self.structure.log_det(self.conditionals)

    def scaled(self, factor: float) -> StructuredGaussian:
        """The Gaussian with all standard deviations multiplied by `factor`."""
        blocks = jax.tree.map(
            lambda block: block / factor**2, self.structure.blocks(self.conditionals)
        )
        return self._replace(conditionals=self.structure.eliminate(blocks, None)[1])

    def transform(self, noise: Floats) -> Floats:
        """Maps standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + self.structure.draws(self.conditionals, noise)


def pivots(precision: Floats, previous: Floats | None) -> tuple[Floats, Floats]:
    """Conditional precisions `(num, width, width)` bounded below, and their inverses.

    Args:
        precision: conditional precisions from elimination.
        previous: the previous conditional covariances; `None` applies no bound.

    Raises:
        LinAlgError: a precision is not positive definite and `previous` is `None`.
    """
    if previous is not None:
        root = np.linalg.cholesky(previous)
        values, axes = np.linalg.eigh(np.swapaxes(root, -1, -2) @ precision @ root)
        invalid = values[..., 0] < MIN_RATIO
        if invalid.any():
            inverse_root = np.linalg.solve(np.swapaxes(root[invalid], -1, -2), axes[invalid])
            raised = np.maximum(values[invalid], MIN_RATIO)[..., None, :]
            precision = precision.copy()
            precision[invalid] = (inverse_root * raised) @ np.swapaxes(inverse_root, -1, -2)
    inverse = np.linalg.inv(np.linalg.cholesky(precision))
    return precision, np.swapaxes(inverse, -1, -2) @ inverse
