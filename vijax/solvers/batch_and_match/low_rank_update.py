"""One step of batch and match for a Gaussian with a diagonal plus low-rank covariance."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.solvers.batch_and_match.dense_update import Step, update
from vijax.solvers.gaussians.low_rank import LowRankGaussian, rescale_diagonal, truncate

_SHARE = 0.5  # of the correction that a batch asks for: it is known to a third or so
_TRIALS = 8  # new directions that each step tries


def patched_update(
    current: LowRankGaussian, noise: Floats, gradient: Floats, lam: float, rank: int
) -> Step | None:
    """One step that stays in the family, `None` if it comes out non-finite.

    The mean moves as in the dense `update`, which changes a Gaussian in the span of its draws,
    their scores and its own directions only, and is taken there. For the covariance the paper
    projects that update's by expectation maximization. Here it follows Stein's identity instead,

        precision - E[-Hessian] = E[S^-1 (z - m) r'],  r = target's score - Gaussian's own,

    on the diagonal, along the Gaussian's own directions and along those in which `r` was largest
    on the batch before: the part of the ELBO's natural gradient that the family can follow. Its
    noise vanishes with `r`, for a target in the family; for others it is stationary at the best
    ELBO, where matched scores are not. Where `r` exceeds the Gaussian's own score the correction
    is divided by its size, so that no variance changes by more than a factor in one step. Costs
    `dim (rank + 2 num_draws)^2`.

    Sources: Batch, match, and patch: low-rank approximations for score-based variational
    inference, Modi, Cai, Saul, 2024; for the identity, Stein's Lemma for the Reparameterization
    Trick with Exponential Family Mixtures, Lin, Khan, Schmidt, 2019.

    Args:
        current: the Gaussian that was drawn from.
        noise: the draws in its standard coordinates, `(num_draws, dim)`.
        gradient: scores of the target at the draws, `(num_draws, dim)`.
        lam: inverse regularization; large trusts the batch.
        rank: directions to keep.
    """
    scores = gradient * current.scale
    seen = np.concatenate([current.basis, noise.T, scores.T], axis=1)
    if not np.isfinite(seen).all():
        return None
    share = _SHARE * lam / (1 + lam)
    try:
        span = np.linalg.qr(seen).Q
        inside, seen_noise, seen_scores = current.project(span), noise @ span, scores @ span
        step = update(inside.dense, seen_noise, seen_scores, lam)
        if step is None:
            return None
        residual = _centered(inside.apply_power(seen_scores) + seen_noise)
        axes, stretch = _corrected(inside, _centered(seen_noise), residual, share)
        mean = current.mean + current.scale * (span @ step.gaussian.mean)
        moved = truncate(LowRankGaussian(mean, current.scale, span @ axes, stretch), rank)
        moved = rescale_diagonal(moved, np.sqrt(_variances(current, noise, scores, share)))
        num = min(_TRIALS, len(mean) - moved.rank)
        new = _on_trial(moved, span @ np.linalg.svd(residual)[2][:num].T)
    except np.linalg.LinAlgError:
        return None
    if not all(np.isfinite(field).all() for field in new):
        return None
    return Step(new, new.log_det - current.log_det)


def _corrected(
    current: LowRankGaussian, noise: Floats, residual: Floats, share: float
) -> tuple[Floats, Floats]:
    """The Gaussian's directions turned and stretched by Stein's identity.

    In coordinates where it is standard its own scores are the noise, up to the sign.
    """
    axes = current.basis
    along = residual @ axes
    size = np.sqrt(np.maximum(1, np.mean(along**2, axis=0)))
    product = (noise @ axes).T @ along / len(noise) / np.maximum.outer(size, size)
    change, rotation = np.linalg.eigh(0.5 * (product + product.T))
    left, stretch, _ = np.linalg.svd(
        current.axis_sd[:, None] * rotation * np.exp(0.5 * share * change)
    )
    return axes @ left, stretch


def _on_trial(gaussian: LowRankGaussian, directions: Floats) -> LowRankGaussian:
    """The same Gaussian with more directions in its basis, unstretched.

    The next batch says whether they should be: the batch that found them would overstate it.
    """
    basis = np.linalg.qr(np.concatenate([gaussian.basis, directions], axis=1)).Q
    basis[:, : gaussian.rank] = gaussian.basis
    stretch = np.concatenate([gaussian.axis_sd, np.ones(directions.shape[1])])
    return gaussian._replace(basis=basis, axis_sd=stretch)


def _variances(current: LowRankGaussian, noise: Floats, scores: Floats, share: float) -> Floats:
    """Factors `(dim,)` on the variances of the diagonal part."""
    own = current.apply_power(noise, -1)  # minus the Gaussian's own scores
    residual = _centered(scores + own)
    product = np.mean(_centered(own) * residual, axis=0)
    precision = current.diagonal(-2)
    size = np.sqrt(np.maximum(1, np.mean(residual**2, axis=0) / precision))
    return np.exp(share * product / (precision * size))


def _centered(rows: Floats) -> Floats:
    return rows - rows.mean(axis=0)


class FactoredMean:
    """The Gaussian with the mean moments of several, cut to a rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.parts: list[tuple[float, LowRankGaussian]] = []

    def add(self, gaussian: LowRankGaussian, weight: float) -> None:
        """One more; weights add up to one."""
        self.parts.append((weight, gaussian))

    def gaussian(self) -> LowRankGaussian | None:
        """The result, `None` where it cannot be computed.

        The spread of the means is left out: it is noise of the iteration.
        """
        weights = np.array([weight for weight, _ in self.parts])
        mean = weights @ np.stack([part.mean for _, part in self.parts])
        scale = np.sqrt(weights @ np.stack([part.scale**2 for _, part in self.parts]))
        loadings = [
            np.sqrt(weight)
            * (part.scale / scale)[:, None]
            * part.basis
            * np.sqrt(part.axis_sd**2 - 1)
            for weight, part in self.parts
        ]
        try:
            basis, lengths, _ = np.linalg.svd(np.concatenate(loadings, axis=1), full_matrices=False)
        except np.linalg.LinAlgError:
            return None
        return truncate(LowRankGaussian(mean, scale, basis, np.sqrt(1 + lengths**2)), self.rank)
