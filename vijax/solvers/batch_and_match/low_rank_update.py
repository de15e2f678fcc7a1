"""One batch-and-match step for a Gaussian with a diagonal plus low-rank covariance."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.batch_and_match.dense_update import Step, update
from vijax.solvers.gaussians.low_rank import LowRankGaussian, rescale_diagonal, truncate

_DAMPING = 0.5  # factor on the estimated correction, whose relative error is about a third
_NUM_NEW = 8  # new directions per step


def low_rank_update(
    current: LowRankGaussian, noise: Floats, gradient: Floats, lam: float, rank: int
) -> Step | None:
    """One step within the family, `None` if the result is not finite.

    The mean is that of the dense `update`, which changes a Gaussian only in the span of its draws,
    their scores and its directions, and is computed in that span. The paper projects the dense
    update of the covariance by expectation maximization. Here Stein's identity is used instead,

        precision - E[-Hessian] = E[S^-1 (z - m) r'],  r = score of target - score of Gaussian,

    on the diagonal, along the directions of the Gaussian and along those in which `r` was largest
    on the batch before: the natural gradient of the ELBO projected onto the family. Its noise
    vanishes with `r` for a target in the family; for others it is stationary at the maximum of the
    ELBO, unlike score matching. Where `r` exceeds the score of the Gaussian the correction is
    divided by its size, which bounds the factor by which a variance changes in one step. Costs
    `dim (rank + 2 num_draws)^2`.

    Sources: Batch, match, and patch: low-rank approximations for score-based variational
    inference, Modi, Cai, Saul, 2024; for the identity, Stein's Lemma for the Reparameterization
    Trick with Exponential Family Mixtures, Lin, Khan, Schmidt, 2019.

    Args:
        current: the Gaussian of the draws.
        noise: the draws in its standard coordinates, `(num_draws, dim)`.
        gradient: scores of the target at the draws, `(num_draws, dim)`.
        lam: inverse regularization; the larger, the larger the step.
        rank: number of directions to keep.
    """
    scores = gradient * current.scale
    vectors = np.concatenate([current.basis, noise.T, scores.T], axis=1)
    if not np.isfinite(vectors).all():
        return None
    damping = _DAMPING * lam / (1 + lam)
    try:
        span = np.linalg.qr(vectors).Q
        projected, span_noise, span_scores = current.project(span), noise @ span, scores @ span
        step = update(projected.dense, span_noise, span_scores, lam)
        if step is None:
            return None
        residual = _centered(projected.apply_power(span_scores) + span_noise)
        axes, axis_sd = _correct_directions(projected, _centered(span_noise), residual, damping)
        mean = current.mean + current.scale * (span @ step.gaussian.mean)
        kept = truncate(LowRankGaussian(mean, current.scale, span @ axes, axis_sd), rank)
        kept = rescale_diagonal(kept, np.sqrt(_variance_factors(current, noise, scores, damping)))
        num = min(_NUM_NEW, len(mean) - kept.rank)
        new = _add_directions(kept, span @ np.linalg.svd(residual)[2][:num].T)
    except np.linalg.LinAlgError:
        return None
    if not all(np.isfinite(field).all() for field in new):
        return None
    return Step(new, new.log_det - current.log_det)


def _correct_directions(
    current: LowRankGaussian, noise: Floats, residual: Floats, damping: float
) -> tuple[Floats, Floats]:
    """The directions and their sds, corrected by Stein's identity.

    In coordinates where the Gaussian is standard its scores are minus the noise.
    """
    axes = current.basis
    along = residual @ axes
    size = np.sqrt(np.maximum(1, np.mean(along**2, axis=0)))
    product = (noise @ axes).T @ along / len(noise) / np.maximum.outer(size, size)
    change, rotation = np.linalg.eigh(0.5 * (product + product.T))
    left, axis_sd, _ = np.linalg.svd(
        current.axis_sd[:, None] * rotation * np.exp(0.5 * damping * change)
    )
    return axes @ left, axis_sd


def _add_directions(gaussian: LowRankGaussian, directions: Floats) -> LowRankGaussian:
    """The same Gaussian with more directions in its basis, of unit `axis_sd`.

    Their sds are estimated from the next batch: the batch that selected them would be biased.
    """
    basis = np.linalg.qr(np.concatenate([gaussian.basis, directions], axis=1)).Q
    basis[:, : gaussian.rank] = gaussian.basis
    axis_sd = np.concatenate([gaussian.axis_sd, np.ones(directions.shape[1])])
    return gaussian._replace(basis=basis, axis_sd=axis_sd)


def _variance_factors(
    current: LowRankGaussian, noise: Floats, scores: Floats, damping: float
) -> Floats:
    """Factors `(dim,)` on the variances of the diagonal part."""
    minus_scores = current.apply_power(noise, -1)  # minus the scores of the Gaussian
    residual = _centered(scores + minus_scores)
    product = np.mean(_centered(minus_scores) * residual, axis=0)
    precision = current.diagonal(-2)
    size = np.sqrt(np.maximum(1, np.mean(residual**2, axis=0) / precision))
    return np.exp(damping * product / (precision * size))


def _centered(rows: Floats) -> Floats:
    return rows - rows.mean(axis=0)


class LowRankAverage:
    """The Gaussian with the averaged moments of several Gaussians, truncated to a rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.terms: list[tuple[float, LowRankGaussian]] = []

    def add(self, gaussian: LowRankGaussian, weight: float) -> None:
        """Adds a Gaussian; the weights sum to one."""
        self.terms.append((weight, gaussian))

    def gaussian(self) -> LowRankGaussian | None:
        """The result, `None` if the decomposition fails.

        The scatter of the means is omitted: it is noise of the iteration.
        """
        weights = np.array([weight for weight, _ in self.terms])
        mean = weights @ np.stack([term.mean for _, term in self.terms])
        scale = np.sqrt(weights @ np.stack([term.scale**2 for _, term in self.terms]))
        loadings = [
            np.sqrt(weight)
            * (term.scale / scale)[:, None]
            * term.basis
            * np.sqrt(term.axis_sd**2 - 1)
            for weight, term in self.terms
        ]
        try:
            basis, singular_values, _ = np.linalg.svd(
                np.concatenate(loadings, axis=1), full_matrices=False
            )
        except np.linalg.LinAlgError:
            return None
        return truncate(
            LowRankGaussian(mean, scale, basis, np.sqrt(1 + singular_values**2)), self.rank
        )
