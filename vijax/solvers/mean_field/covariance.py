"""The covariance of a mean-field fit by linear response."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.errors import VijaxError
from vijax.solvers.gaussians.dense import moment_matched
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.mean_field.fixed_draws import initial_num_draws, maximize_elbo
from vijax.solvers.mean_field.linear_response import covariance_rows, elbo_curvature

_MAX_DRAWS = 128  # maximum number of draws at which Hessians are evaluated
_ITERATIONS = 30  # typical number of conjugate gradient iterations, each a product per row and draw


def linear_response(
    kernel: Kernel,
    rng: np.random.Generator,
    mean: Floats,
    sd: Floats,
    rows: np.ndarray | None = None,
) -> Floats:
    """Posterior covariance by linear response from a mean-field Gaussian, in float64.

    The ELBO on fixed draws is first maximized from this Gaussian, which makes the result exact on
    Gaussian posteriors. For few of many coordinates the linear system is solved by conjugate
    gradients, otherwise its matrix is formed. Compiles one program, for Hessian-vector products.
    Source: Covariances, robustness, and variational Bayes, Giordano, Broderick, Jordan, 2018.

    Args:
        kernel: the compiled log density and gradient.
        rng: source of randomness.
        mean: means of the Gaussian, `(dim,)`.
        sd: standard deviations of the Gaussian, `(dim,)`.
        rows: indices of the coordinates; all by default.

    Returns:
        Covariance `(num, num)` of these coordinates.

    Raises:
        VijaxError: the Hessian of the ELBO is not negative definite.
    """
    rows = np.arange(kernel.dim) if rows is None else rows
    with host_algebra(kernel.dim):
        noise = moment_matched(rng, initial_num_draws(kernel.dim), kernel.dim)
        objective, point = maximize_elbo(kernel, noise, mean, sd)
        if len(noise) > _MAX_DRAWS:
            noise = moment_matched(rng, _MAX_DRAWS, kernel.dim)
        if _ITERATIONS * len(rows) < kernel.dim:
            objective.noise = noise
            some = covariance_rows(objective, point, rows)
            result = None if some is None else some[:, rows]
        else:
            full = elbo_curvature(noise, objective.mean, objective.sd, kernel.hessian).covariance
            result = None if full is None else full[np.ix_(rows, rows)]
    if result is None or not np.isfinite(result).all():
        raise VijaxError(
            "linear response: expected a fit at a maximum of the ELBO, got one where its Hessian "
            "is not negative definite. Continue until convergence, or use a full-rank guide."
        )
    return 0.5 * (result + result.T)
