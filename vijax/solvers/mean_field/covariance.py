"""The covariance of a mean-field fit by linear response."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.errors import VijaxError
from vijax.solvers.gaussians.dense import moment_matched
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.mean_field.fixed_draws import climb, enough_draws
from vijax.solvers.mean_field.linear_response import covariance_rows, respond

_BENT = 128  # draws, at most, at which the curvature is taken
_ITERATIONS = 30  # of conjugate gradients, about; one takes a product for each row and draw


def linear_response(
    kernel: Kernel,
    rng: np.random.Generator,
    mean: Floats,
    sd: Floats,
    rows: np.ndarray | None = None,
) -> Floats:
    """Posterior covariance by linear response from a mean-field Gaussian, in float64.

    The Gaussian first moves to the optimum of the ELBO on fixed draws beside it, which makes the
    answer exact on Gaussian posteriors. For a few of many coordinates the system is solved by
    conjugate gradients, else its matrix is formed. Compiles one program, for Hessian-vector
    products. Source: Covariances, robustness, and variational Bayes, Giordano, Broderick,
    Jordan, 2018.

    Args:
        kernel: the compiled log density and gradient.
        rng: source of randomness.
        mean: of the Gaussian, `(dim,)`.
        sd: of the Gaussian, `(dim,)`.
        rows: positions of the coordinates that are wanted; all by default.

    Returns:
        `(num, num)` for as many coordinates.

    Raises:
        VijaxError: the ELBO has no maximum there.
    """
    rows = np.arange(kernel.dim) if rows is None else rows
    with host_algebra(kernel.dim):
        noise = moment_matched(rng, enough_draws(kernel.dim), kernel.dim)
        objective, point = climb(kernel, noise, mean, sd)
        if len(noise) > _BENT:
            noise = moment_matched(rng, _BENT, kernel.dim)
        if _ITERATIONS * len(rows) < kernel.dim:
            objective.noise = noise
            some = covariance_rows(objective, point, rows)
            found = None if some is None else some[:, rows]
        else:
            whole = respond(noise, objective.mean, objective.sd, kernel.hessian).covariance
            found = None if whole is None else whole[np.ix_(rows, rows)]
    if found is None or not np.isfinite(found).all():
        raise VijaxError(
            "linear response: expected a fit at a maximum of the ELBO, got one where its Hessian "
            "is not negative definite. Fit on until converged, or take a full-rank guide."
        )
    return 0.5 * (found + found.T)
