"""Gaussians whose precision has few blocks, on the host: what a structure must be able to do.

A structure orders the blocks of coordinates so that eliminating them one by one fills in nothing.
Each block is then a linear map of blocks before it plus noise of its own, and all algebra costs
no more than its non-zero blocks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.contracts.kernel import Floats

Blocks = Any  # of a precision: a tree of arrays, as the structure arranges them
Conditionals = Any  # the linear maps and the noise covariances: another such tree

LEAST = 0.01  # factor by which a step may lower a conditional precision along any axis


class Structure(abc.ABC):
    """Which blocks of a precision are not zero, and the algebra on them; vectors are `(dim,)`."""

    dim: int

    @abc.abstractmethod
    def diagonal(self, values: Floats) -> Blocks:
        """The blocks of a diagonal matrix, from its diagonal."""

    @abc.abstractmethod
    def measure(
        self,
        apply: Callable[[Floats], Floats],
        num: int,
        rng: np.random.Generator,
        at: Conditionals,
    ) -> Blocks:
        """The blocks of the mean of `num` symmetric matrices, from few products with them.

        A vector that touches many blocks at once shows a column of each. They get random signs,
        by which what the structure leaves out averages to zero instead of being taken for more.
        Sources: Efficient Estimation of Sparse Jacobian Matrices, Curtis, Powell, Reid, 1974; An
        estimator for the diagonal of a matrix, Bekas, Kokiopoulou, Saad, 2007.

        Args:
            apply: the product of each matrix with its own vector, `(num, dim)` to `(num, dim)`.
            num: how many there are.
            rng: source of the signs.
            at: the present conditionals.
        """

    @abc.abstractmethod
    def eliminate(self, blocks: Blocks, before: Conditionals | None) -> tuple[Blocks, Conditionals]:
        """The conditionals of a precision, whose noise precisions are kept from falling too low.

        Where one along some axis is below `LEAST` of what it was `before`, negative included, it
        is raised to that; the blocks returned are those of the precision after this.

        Raises:
            LinAlgError: there is no `before` and the precision is not positive definite.
        """

    @abc.abstractmethod
    def solve(self, conditionals: Conditionals, right: Floats) -> Floats:
        """`precision^-1 right`."""

    @abc.abstractmethod
    def draws(self, conditionals: Conditionals, noise: Floats) -> Floats:
        """Draws `(num, dim)` of mean zero made of as many normals."""

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
        """The diagonal of a matrix."""


class StructuredGaussian(NamedTuple):
    """A Gaussian with a structure, in float64.

    Attributes:
        structure: of its precision.
        mean: `(dim,)`.
        conditionals: as the structure arranges them.
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

    def scaled(self, by: float) -> StructuredGaussian:
        """The Gaussian with all standard deviations multiplied."""
        blocks = jax.tree.map(lambda block: block / by**2, self.structure.blocks(self.conditionals))
        return self._replace(conditionals=self.structure.eliminate(blocks, None)[1])

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + self.structure.draws(self.conditionals, noise)


def pivots(precision: Floats, before: Floats | None) -> tuple[Floats, Floats]:
    """Conditional precisions `(num, width, width)` kept from falling too low, and their inverses.

    Args:
        precision: as eliminated.
        before: the conditional covariances so far, `None` to take the precisions as they are.

    Raises:
        LinAlgError: a precision is not positive definite and there is no `before`.
    """
    if before is not None:
        root = np.linalg.cholesky(before)
        values, axes = np.linalg.eigh(np.swapaxes(root, -1, -2) @ precision @ root)
        low = values[..., 0] < LEAST
        if low.any():
            back = np.linalg.solve(np.swapaxes(root[low], -1, -2), axes[low])
            raised = np.maximum(values[low], LEAST)[..., None, :]
            precision = precision.copy()
            precision[low] = (back * raised) @ np.swapaxes(back, -1, -2)
    inverse = np.linalg.inv(np.linalg.cholesky(precision))
    return precision, np.swapaxes(inverse, -1, -2) @ inverse
