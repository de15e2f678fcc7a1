"""Linear response: covariances from a mean-field fit.

A mean-field Gaussian often has accurate means, but underestimates the variances of correlated
coordinates. The derivative of its means with respect to `t` when `t' z` is added to the log density
is a covariance that includes correlations: the top-left block of the inverse Hessian of the
negative ELBO in `(mu, log sd)`. It is exact for Gaussian posteriors. Source: Covariances,
robustness, and variational Bayes, Giordano, Broderick, Jordan, 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.mean_field.sample_average import SampleAverageObjective

_STEP = 0.1  # finite difference step, in sds
_MAX_ITERATIONS = 200  # of conjugate gradients


class ElboCurvature(NamedTuple):
    """Curvature of the negative ELBO on fixed draws, at a mean-field Gaussian.

    Attributes:
        sd: standard deviations of the Gaussian, `(d,)`.
        matrix: Hessian `(2 d, 2 d)` in `(mu / sd, log sd)`.
    """

    sd: Floats
    matrix: Floats

    @property
    def inverse(self) -> Floats | None:
        """Inverse Hessian `(2 d, 2 d)`; `None` if the Hessian is not positive definite."""
        try:
            root = np.linalg.inv(np.linalg.cholesky(self.matrix))
        except np.linalg.LinAlgError:
            return None
        return root.T @ root

    @property
    def covariance(self) -> Floats | None:
        """Posterior covariance `(d, d)`; `None` if the Hessian is not positive definite."""
        inverse, half = self.inverse, self.sd.size
        return None if inverse is None else np.outer(self.sd, self.sd) * inverse[:half, :half]


def elbo_curvature(
    noise: Floats, mean: Floats, sd: Floats, hessian: Callable[[Floats], Floats]
) -> ElboCurvature:
    """The curvature at an optimum, from Hessians of the log density at all draws.

    With `H_m` the Hessian at draw `m` in units of `sd`, the blocks are `-mean H_m`,
    `-mean H_m diag(z_m)` and `-mean diag(z_m) H_m diag(z_m) + I`; the identity replaces
    `-diag(mean sd z_m g_m)`, to which it is equal at an optimum.

    Args:
        noise: standard normal `(num_draws, d)`.
        mean: mean of the Gaussian, `(d,)`.
        sd: standard deviations of the Gaussian, `(d,)`.
        hessian: Hessian of the log density, from a point `(d,)` to `(d, d)`; `Kernel.hessian`, or
            `finite_difference_hessian` to compile nothing.
    """
    dim = sd.size
    matrix = np.zeros((2 * dim, 2 * dim))
    for row in noise:
        scaled = hessian(mean + sd * row) * np.outer(sd, sd) / len(noise)
        product = scaled * row
        matrix[:dim, :dim] -= scaled
        matrix[:dim, dim:] -= product
        matrix[dim:, dim:] -= row[:, None] * product
    matrix[dim:, :dim] = matrix[:dim, dim:].T
    matrix[dim:, dim:] += np.eye(dim)
    return ElboCurvature(sd, matrix)


def finite_difference_hessian(kernel: Kernel, sd: Floats) -> Callable[[Floats], Floats]:
    """Hessians of the log density by central differences of scores, with steps of `sd / 10` `(d,)`.

    Accurate to about one percent: for error estimates, where compiling exact Hessians would take
    longer than everything else.
    """
    steps = np.diag(_STEP * sd)

    def hessian(point: Floats) -> Floats:
        _, score = kernel(np.concatenate([point + steps, point - steps]))
        forward, backward = np.split(score, 2)
        matrix = (forward - backward) / (2 * _STEP * sd[:, None])
        return 0.5 * (matrix + matrix.T)

    return hessian


def covariance_rows(
    objective: SampleAverageObjective, point: Floats, rows: np.ndarray
) -> Floats | None:
    """Rows of the posterior covariance, `(len(rows), d)`, by conjugate gradients.

    For few of many coordinates: each row takes a few dozen Hessian-vector products of the ELBO,
    the full matrix `d` of them.

    Args:
        objective: the ELBO on fixed draws.
        point: its optimum `(2 d,)`.
        rows: indices of the coordinates.

    Returns:
        The rows; `None` if a direction of non-negative curvature of the ELBO was found.
    """
    half = objective.dim // 2
    unit = np.zeros((len(rows), objective.dim))
    unit[np.arange(len(rows)), rows] = 1
    inverse = conjugate_gradients(lambda vectors: -objective.products(point, vectors), unit)
    if inverse is None:
        return None
    return objective.sd[rows, None] * inverse[:, :half] * objective.sd


def conjugate_gradients(
    products: Callable[[Floats], Floats], rhs: Floats, tolerance: float = 1e-5
) -> Floats | None:
    """Solves `A x = b` for every row `b` of `rhs` `(num, dim)`, vectorized over rows.

    Source: Methods of conjugate gradients for solving linear systems, Hestenes, Stiefel, 1952.

    Args:
        products: maps rows `(num, dim)` to their products with the symmetric matrix `A`.
        rhs: right-hand sides.
        tolerance: norm of the residual relative to that of `b` at which a row has converged.

    Returns:
        Solutions `(num, dim)`; `None` if `A` is found not to be positive definite.
    """
    x, residual = np.zeros_like(rhs), rhs.copy()
    direction = residual.copy()
    squared_norm = np.sum(residual**2, axis=1)
    threshold = tolerance**2 * squared_norm
    for _ in range(_MAX_ITERATIONS):
        active = np.flatnonzero(squared_norm > threshold)
        if not active.size:
            break
        search = direction[active]
        product = products(search)
        curvature = np.sum(search * product, axis=1)
        if not (curvature > 0).all():
            return None
        step = (squared_norm[active] / curvature)[:, None]
        x[active] += step * search
        residual[active] -= step * product
        new_squared_norm = np.sum(residual[active] ** 2, axis=1)
        direction[active] = (
            residual[active] + (new_squared_norm / squared_norm[active])[:, None] * search
        )
        squared_norm[active] = new_squared_norm
    return x
