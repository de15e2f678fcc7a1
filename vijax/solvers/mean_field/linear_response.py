"""Linear response: the covariances that a mean-field fit leaves out.

A mean-field Gaussian has the right means where it is good, and variances that are too small where
coordinates are correlated. How its means move when the log density is tilted by `t' z` is a
covariance that does see the correlations: the top-left block of the inverse Hessian of the
negative ELBO in `(mu, log sd)`. It is exact for Gaussian posteriors. Source: Covariances,
robustness, and variational Bayes, Giordano, Broderick, Jordan, 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.mean_field.sample_average import FixedObjective

_DIFFERENCE = 0.1  # sds between a draw and the points its curvature is measured from
_MOST_STEPS = 200  # of conjugate gradients


class Response(NamedTuple):
    """Curvature of the negative ELBO on fixed draws, at one mean-field Gaussian.

    Attributes:
        sd: of the Gaussian, `(d,)`.
        matrix: Hessian `(2 d, 2 d)` in `(mu / sd, log sd)`.
    """

    sd: Floats
    matrix: Floats

    @property
    def inverse(self) -> Floats | None:
        """The inverse Hessian `(2 d, 2 d)`; `None` where the Hessian is not positive definite."""
        try:
            root = np.linalg.inv(np.linalg.cholesky(self.matrix))
        except np.linalg.LinAlgError:
            return None
        return root.T @ root

    @property
    def covariance(self) -> Floats | None:
        """Posterior covariance `(d, d)`; `None` where the Hessian is not positive definite."""
        inverse, half = self.inverse, self.sd.size
        return None if inverse is None else np.outer(self.sd, self.sd) * inverse[:half, :half]


def respond(
    noise: Floats, mean: Floats, sd: Floats, hessian: Callable[[Floats], Floats]
) -> Response:
    """The curvature at an optimum, from Hessians of the log density at all draws.

    With `H_m` the Hessian at draw `m` in units of `sd`, the blocks are `-mean H_m`,
    `-mean H_m diag(z_m)` and `-mean diag(z_m) H_m diag(z_m) + I`; the identity stands for
    `-diag(mean sd z_m g_m)`, which it is at an optimum.

    Args:
        noise: standard normal `(num_draws, d)`.
        mean: of the Gaussian, `(d,)`.
        sd: of the Gaussian, `(d,)`.
        hessian: of the log density, from a point `(d,)` to `(d, d)`; `Kernel.hessian`, or
            `by_differences` to compile nothing.
    """
    dim = sd.size
    matrix = np.zeros((2 * dim, 2 * dim))
    for row in noise:
        bent = hessian(mean + sd * row) * np.outer(sd, sd) / len(noise)
        tilted = bent * row
        matrix[:dim, :dim] -= bent
        matrix[:dim, dim:] -= tilted
        matrix[dim:, dim:] -= row[:, None] * tilted
    matrix[dim:, :dim] = matrix[:dim, dim:].T
    matrix[dim:, dim:] += np.eye(dim)
    return Response(sd, matrix)


def by_differences(kernel: Kernel, sd: Floats) -> Callable[[Floats], Floats]:
    """Hessians of the log density by central differences of scores over tenths of `sd` `(d,)`.

    Good to a per cent or so: for error estimates, where compiling exact ones would cost more
    than all the rest.
    """
    steps = np.diag(_DIFFERENCE * sd)

    def hessian(point: Floats) -> Floats:
        _, score = kernel(np.concatenate([point + steps, point - steps]))
        ahead, behind = np.split(score, 2)
        bent = (ahead - behind) / (2 * _DIFFERENCE * sd[:, None])
        return 0.5 * (bent + bent.T)

    return hessian


def covariance_rows(objective: FixedObjective, point: Floats, rows: np.ndarray) -> Floats | None:
    """Rows of the posterior covariance, `(len(rows), d)`, by conjugate gradients.

    For a few coordinates of many: each row takes some dozens of Hessian-vector products of the
    ELBO, against `d` of them for the whole matrix.

    Args:
        objective: the fixed-draw ELBO.
        point: its optimum `(2 d,)`.
        rows: positions of the coordinates.

    Returns:
        The rows; `None` where a direction of positive curvature of the ELBO was met.
    """
    half = objective.dim // 2
    unit = np.zeros((len(rows), objective.dim))
    unit[np.arange(len(rows)), rows] = 1
    inverse = conjugate_gradients(lambda vectors: -objective.products(point, vectors), unit)
    if inverse is None:
        return None
    return objective.sd[rows, None] * inverse[:, :half] * objective.sd


def conjugate_gradients(
    products: Callable[[Floats], Floats], right: Floats, tolerance: float = 1e-5
) -> Floats | None:
    """Solves `A x = b` for every row `b` of `right` `(num, dim)`, all side by side.

    Source: Methods of conjugate gradients for solving linear systems, Hestenes, Stiefel, 1952.

    Args:
        products: rows `(num, dim)` to rows times the symmetric matrix `A`.
        right: right-hand sides.
        tolerance: residual norm relative to that of `b` at which a row counts as solved.

    Returns:
        Solutions `(num, dim)`; `None` where `A` turned out not to be positive definite.
    """
    x, residual = np.zeros_like(right), right.copy()
    direction = residual.copy()
    square = np.sum(residual**2, axis=1)
    goal = tolerance**2 * square
    for _ in range(_MOST_STEPS):
        open_rows = np.flatnonzero(square > goal)
        if not open_rows.size:
            break
        along = direction[open_rows]
        image = products(along)
        bend = np.sum(along * image, axis=1)
        if not (bend > 0).all():
            return None
        step = (square[open_rows] / bend)[:, None]
        x[open_rows] += step * along
        residual[open_rows] -= step * image
        fresh = np.sum(residual[open_rows] ** 2, axis=1)
        direction[open_rows] = residual[open_rows] + (fresh / square[open_rows])[:, None] * along
        square[open_rows] = fresh
    return x
