"""Fits Gaussian Markov chains by second-order steps, everything linear in their length."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from vijax._contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax._errors import GuideError, mismatch
from vijax._kernel import Floats, Kernel
from vijax._keys import host_rng
from vijax.guides.markov import Markov, MarkovParams, order
from vijax.solvers import chain_gaussian
from vijax.solvers.chain_gaussian import Conditionals, Tridiagonal

_HALVINGS = 12  # of a step until its precision is positive definite
_COLOURS = 3  # blocks that far apart share no neighbour: one product serves them all


@dataclasses.dataclass(frozen=True)
class MarkovNewton(Solver):
    """Newton's method for the ELBO in the family of `Markov`.

    At the optimum the precision is the mean negative Hessian under `q` and the mean gradient is
    zero, so a step is `P' = (1 - r) P - r E[H]`, `m' = m + r P'^-1 E[g]`, halved until `P'` is
    positive definite. The blocks of `H` come from `3 width` products with vectors that touch
    every third block, whatever the length. A Gaussian target takes one step. Model `param` sites
    stay fixed. Source: The Variational Gaussian Approximation Revisited, Opper and Archambeau,
    2009; for the products, Efficient Estimation of Sparse Jacobian Matrices, Curtis, Powell,
    Reid, 1974.

    Args:
        num_draws: draws of one step, even, in mirrored pairs.
        max_steps: the limit.
        tolerance: largest change of a mean in sds, and of a log sd, at which it has converged.

    Raises:
        GuideError: an option makes no sense.
    """

    maximises_elbo: ClassVar[bool] = True
    num_draws: int = 8
    max_steps: int = 30
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.num_draws < 2 or self.num_draws % 2:
            raise GuideError(mismatch("num_draws", "an even number", self.num_draws))

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a Markov guide; see `Solver.solve`.

        Raises:
            GuideError: the guide is not a `Markov`.
        """
        if not isinstance(guide, Markov):
            raise GuideError(mismatch("guide", "a Markov guide", repr(guide)))
        kernel, rng = Kernel(target, batch, variables.model), host_rng(key)
        where = order(target.space)
        mean = np.asarray(variables.guide.loc, np.float64)
        precision = _diagonal(mean.shape, guide.init_scale**-2)
        chain = chain_gaussian.conditionals(precision)
        spread = chain_gaussian.marginal_sds(chain)
        noise = rng.standard_normal((self.num_draws // 2, *mean.shape))
        noise = np.concatenate([noise, -noise])
        converged, steps, reason = False, 0, ""
        while not converged and steps < self.max_steps:
            # the first step, far from the start's width, looks at the start itself; draws are the
            # same at every later one, which makes it a deterministic iteration with a limit
            away = chain_gaussian.draws(chain, noise) if steps else np.zeros((1, *mean.shape))
            points = np.empty((len(away), where.size))
            points[:, where.reshape(-1)] = (mean + away).reshape(len(away), -1)
            slope = kernel(points)[1].mean(axis=0)[where]
            curvature = _curvature(kernel, points, where)
            finite = all(np.isfinite(part).all() for part in (slope, *curvature))
            found = _damped(precision, curvature) if finite else None
            if found is None:
                reason = f"no positive definite precision after {steps} steps"
                break
            precision, chain, share = found
            step = share * chain_gaussian.solve(chain, slope)
            sds = chain_gaussian.marginal_sds(chain)
            change = max(np.max(np.abs(step) / sds), np.max(np.abs(np.log(sds / spread))))
            mean, spread, steps = mean + step, sds, steps + 1
            converged = bool(steps > 1 and share == 1 and change < self.tolerance)
        params = _params(variables.guide, mean, chain)
        done = f"converged in {steps}" if converged else f"not converged after {steps}"
        reason = reason or f"{done} steps, the last of which moved {change:.2g} sd"
        return Solution(variables._replace(guide=params), reason, converged, kernel.points)


def _diagonal(shape: tuple[int, ...], value: float) -> Tridiagonal:
    length, width = shape
    return Tridiagonal(
        np.tile(value * np.eye(width), (length, 1, 1)), np.zeros((length - 1, width, width))
    )


def _curvature(kernel: Kernel, points: Floats, where: np.ndarray) -> Tridiagonal:
    """Blocks of the mean negative Hessian at the points `(num, dim)`."""
    length, width = where.shape
    diagonal = np.zeros((length, width, width))
    below = np.zeros((length - 1, width, width))
    for colour in range(min(_COLOURS, length)):
        rows = np.arange(colour, length, _COLOURS)
        for j in range(width):
            probe = np.zeros(where.size)
            probe[where[rows, j]] = 1.0
            products = kernel.paired_products(points, np.tile(probe, (len(points), 1)))
            column = -products.mean(axis=0)[where]
            diagonal[rows, :, j] = column[rows]
            under = rows[rows + 1 < length]
            below[under, :, j] = column[under + 1]
    return Tridiagonal(0.5 * (diagonal + np.swapaxes(diagonal, 1, 2)), below)


def _damped(old: Tridiagonal, new: Tridiagonal) -> tuple[Tridiagonal, Conditionals, float] | None:
    """The largest share of a step that leaves the precision positive definite, and its chain."""
    share = 1.0
    for _ in range(_HALVINGS):
        parts = [(1 - share) * a + share * b for a, b in zip(old, new, strict=True)]
        precision = Tridiagonal(*parts)
        try:
            return precision, chain_gaussian.conditionals(precision), share
        except np.linalg.LinAlgError:
            share /= 2
    return None


def _params(like: MarkovParams, mean: Floats, chain: Conditionals) -> MarkovParams:
    root = np.linalg.cholesky(chain.covariance)
    scale = np.einsum("tii->ti", root)
    lower = np.tril(root / scale[:, :, None], -1)
    leaves = (mean, np.log(scale), lower, chain.gain)
    return MarkovParams(
        *(jax.device_put(np.asarray(a, b.dtype)) for a, b in zip(leaves, like, strict=True))
    )
