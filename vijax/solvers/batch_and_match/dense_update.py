"""One closed-form step of batch and match."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import Gaussian


class Step(NamedTuple):
    """The updated Gaussian and the change of `log |factor|`."""

    gaussian: Any
    log_det: float


def update(current: Gaussian, noise: Floats, gradient: Floats, lam: float) -> Step | None:
    """One batch-and-match step, `None` if the result is not finite.

    With `z-bar`, `C` mean and covariance of the draws, `g-bar`, `G` those of the scores,
    `U = lam G + lam/(1+lam) g-bar g-bar'`, `V = S + lam C + lam/(1+lam) (m - z-bar)(m - z-bar)'`,
    the new covariance solves `S' U S' + S' = V` and the new mean is
    `m/(1+lam) + lam/(1+lam) (S' g-bar + z-bar)`. Computed in coordinates where the current
    Gaussian is standard: the step is affine invariant, and `V` is then the identity plus a matrix
    of the batch's rank, for any scaling of the target. With `R = V^(1/2)`, `U = Q Q'` and the
    singular vectors `W` and values `e` of `R Q`, the solution is
    `S' = R (I + W diag(k - 1) W') R`, `k = 2 / (1 + sqrt(1 + 4 e^2))`. The new factor is the old
    one times two such low-rank changes: no cancellation, and `dim^2 num_draws` operations.

    Args:
        current: the Gaussian of the draws.
        noise: the draws in its standard coordinates, `(num_draws, dim)`.
        gradient: scores of the target at the draws, `(num_draws, dim)`.
        lam: inverse regularization; the larger, the larger the step.
    """
    weight = lam / (1 + lam)
    scores = gradient @ current.factor
    score, center = scores.mean(axis=0), noise.mean(axis=0)
    score_root = _stack_root(scores - score, score, lam)
    noise_root = _stack_root(noise - center, center, lam)
    try:
        _, s, axes = np.linalg.svd(noise_root, full_matrices=False)
        widening = np.sqrt(1 + s**2)
        tilted = score_root + (score_root @ axes.T * (widening - 1)) @ axes
        _, e, directions = np.linalg.svd(tilted, full_matrices=False)
    except np.linalg.LinAlgError:
        return None
    shrinkage = np.sqrt(2 / (1 + np.sqrt(1 + 4 * e**2)))

    def stretched(rows: Floats, along: Floats, scale: Floats) -> Floats:
        """`rows (I + along' diag(scale - 1) along)`."""
        return rows + (rows @ along.T * (scale - 1)) @ along

    factor = stretched(stretched(current.factor, axes, widening), directions, shrinkage)
    # S' g-bar through the square root R (I + W diag(sqrt(k) - 1) W') and its transpose
    product = stretched(stretched(score[None], axes, widening), directions, shrinkage**2)
    product = stretched(product, axes, widening)[0]
    mean = current.mean + current.factor @ (weight * (product + center))
    log_det = float(np.log(widening).sum() + np.log(shrinkage).sum())
    if not (np.isfinite(mean).all() and np.isfinite(factor).all() and np.isfinite(log_det)):
        return None
    return Step(Gaussian(mean, factor), log_det)


def _stack_root(centered: Floats, mean: Floats, lam: float) -> Floats:
    """Rows `r` with `r'r = lam cov + lam/(1+lam) mean mean'`, `(num_draws + 1, dim)`."""
    rows = np.sqrt(lam / len(centered)) * centered
    return np.concatenate([rows, np.sqrt(lam / (1 + lam)) * mean[None]])
