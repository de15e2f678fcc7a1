"""One closed-form step of batch and match."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.gaussians.dense import Gaussian


class Step(NamedTuple):
    """A new Gaussian, and by how much `log |factor|` changed on the way to it."""

    gaussian: Any
    log_det: float


def update(current: Gaussian, noise: Floats, gradient: Floats, lam: float) -> Step | None:
    """One batch-and-match step, `None` if it comes out non-finite.

    With `z-bar`, `C` mean and covariance of the draws, `g-bar`, `G` those of the scores,
    `U = lam G + lam/(1+lam) g-bar g-bar'`, `V = S + lam C + lam/(1+lam) (m - z-bar)(m - z-bar)'`,
    the new covariance solves `S' U S' + S' = V` and the new mean is
    `m/(1+lam) + lam/(1+lam) (S' g-bar + z-bar)`. All of it is done in coordinates where the
    current Gaussian is standard: the step is affine invariant, and `V` is then the identity plus
    a matrix of the batch's rank, however the target is scaled. With `R = V^(1/2)`, `U = Q Q'` and
    the singular vectors `W` and values `e` of `R Q`, the solution is
    `S' = R (I + W diag(k - 1) W') R`, `k = 2 / (1 + sqrt(1 + 4 e^2))`. The new factor is the old
    one times two such low-rank changes: no cancellation, and `dim^2 num_draws` operations.

    Args:
        current: the Gaussian that was drawn from.
        noise: the draws in its standard coordinates, `(num_draws, dim)`.
        gradient: scores of the target at the draws, `(num_draws, dim)`.
        lam: inverse regularization; large trusts the batch.
    """
    weight = lam / (1 + lam)
    scores = gradient @ current.factor
    score, center = scores.mean(axis=0), noise.mean(axis=0)
    root = _stack_root(scores - score, score, lam)
    spread = _stack_root(noise - center, center, lam)
    try:
        _, s, axes = np.linalg.svd(spread, full_matrices=False)
        widen = np.sqrt(1 + s**2)
        tilted = root + (root @ axes.T * (widen - 1)) @ axes
        _, e, directions = np.linalg.svd(tilted, full_matrices=False)
    except np.linalg.LinAlgError:
        return None
    shrink = np.sqrt(2 / (1 + np.sqrt(1 + 4 * e**2)))

    def change(rows: Floats, along: Floats, scale: Floats) -> Floats:
        """`rows (I + along' diag(scale - 1) along)`."""
        return rows + (rows @ along.T * (scale - 1)) @ along

    factor = change(change(current.factor, axes, widen), directions, shrink)
    # S' g-bar through the square root R (I + W diag(sqrt(k) - 1) W') and its transpose
    pulled = change(change(score[None], axes, widen), directions, shrink**2)
    pulled = change(pulled, axes, widen)[0]
    mean = current.mean + current.factor @ (weight * (pulled + center))
    log_det = float(np.log(widen).sum() + np.log(shrink).sum())
    if not (np.isfinite(mean).all() and np.isfinite(factor).all() and np.isfinite(log_det)):
        return None
    return Step(Gaussian(mean, factor), log_det)


def _stack_root(centered: Floats, mean: Floats, lam: float) -> Floats:
    """Rows `r` with `r'r = lam cov + lam/(1+lam) mean mean'`, `(num_draws + 1, dim)`."""
    rows = np.sqrt(lam / len(centered)) * centered
    return np.concatenate([rows, np.sqrt(lam / (1 + lam)) * mean[None]])
