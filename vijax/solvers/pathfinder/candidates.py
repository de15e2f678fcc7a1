"""Candidate approximations along quasi-Newton paths: their selection, and their ELBOs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.gaussians.dense import log_normal
from vijax.solvers.optimization.paths import Path
from vijax.solvers.pathfinder.inverse_hessian import (
    CompactGaussians,
    concatenate,
    normal_approximations,
    predicted_elbo,
)

_MAX_ITERATES = 200  # iterates of a path considered as candidates
_MIN_SEPARATION = 0.04  # smallest distance between finalists, relative to the path length


class EvaluatedCandidates(NamedTuple):
    """Candidates of one path with their ELBO estimates and the draws behind these.

    Attributes:
        gaussians: the candidates, a stack of `num`.
        iterates: index of the iterate each belongs to, `(num,)`.
        elbos: `(num,)`, -inf where a draw was not finite.
        lower_bounds: the ELBOs minus two standard errors, `(num,)`; selecting the highest lower
            bound instead of the highest noisy ELBO avoids noisy candidates.
        draws: `(num, num_draws, dim)`.
        log_density: log density of the draws, `(num, num_draws)`.
    """

    gaussians: CompactGaussians
    iterates: np.ndarray
    elbos: Floats
    lower_bounds: Floats
    draws: Floats
    log_density: Floats


def preselect(path: Path, history: int, num: int) -> tuple[CompactGaussians, np.ndarray]:
    """Candidates of a path to evaluate, and the indices of their iterates.

    The `num` of highest predicted ELBO and `num` equidistant ones: on a path that diverges into a
    funnel the predictions are unreliable, and the good candidates lie in the middle.
    """
    num_steps = len(path.points) - 1
    iterates = np.unique(
        np.linspace(1, num_steps, min(num_steps, _MAX_ITERATES)).round().astype(int)
    )
    stacks = list(normal_approximations(path, iterates, history))
    gaussians = concatenate(stacks)
    predicted = predicted_elbo(path, iterates, gaussians)
    equidistant = np.linspace(0, len(iterates) - 1, min(len(iterates), num)).round().astype(int)
    keep = np.union1d(top_indices(predicted, num), equidistant)
    return gaussians.take(keep), iterates[keep]


def select_separated(
    evaluated: EvaluatedCandidates, length: int, num: int
) -> tuple[CompactGaussians, np.ndarray]:
    """The best `num` candidates that are not adjacent on a path of `length` iterates."""
    chosen: list[int] = []
    for i in top_indices(evaluated.lower_bounds, len(evaluated.lower_bounds)):
        adjacent = any(
            abs(evaluated.iterates[i] - evaluated.iterates[j]) < _MIN_SEPARATION * length
            for j in chosen
        )
        if np.isfinite(evaluated.elbos[i]) and not adjacent:
            chosen.append(int(i))
        if len(chosen) == num:
            break
    keep = np.array(chosen, int)
    return evaluated.gaussians.take(keep), evaluated.iterates[keep]


def evaluate_candidates(
    kernel: Kernel, candidates: dict[int, tuple[CompactGaussians, np.ndarray]], noise: Floats
) -> dict[int, EvaluatedCandidates]:
    """ELBOs of all candidates of all paths, with one kernel call for all of their draws.

    Args:
        kernel: the compiled log density and gradient.
        candidates: candidates and the indices of their iterates, by path.
        noise: antithetic standard normal `(num_draws, dim)`, see `antithetic`; common to all
            candidates, which reduces the variance of differences.
    """
    draws = {i: gaussians.transform(noise) for i, (gaussians, _) in candidates.items()}
    if not draws:
        return {}
    points = np.concatenate([block.reshape(-1, kernel.dim) for block in draws.values()])
    log_density, _ = kernel(points)
    evaluated, start = {}, 0
    for i, block in draws.items():
        gaussians, iterates = candidates[i]
        stop = start + block.shape[0] * block.shape[1]
        values = log_density[start:stop].reshape(block.shape[:2])
        start = stop
        terms = values - log_normal(noise, gaussians.log_det[:, None])
        elbos = terms.mean(axis=1)
        pairs = terms[:, : len(noise) // 2] + terms[:, len(noise) // 2 :]  # antithetic pairs
        errors = pairs.std(axis=1) / np.sqrt(2 * len(noise))
        lower_bounds = np.where(np.isfinite(elbos), elbos - 2 * errors, -np.inf)
        evaluated[i] = EvaluatedCandidates(gaussians, iterates, elbos, lower_bounds, block, values)
    return evaluated


def top_indices(values: Floats, num: int) -> np.ndarray:
    """Indices of the `num` largest values, in descending order; NaN counts as lowest."""
    values = np.where(np.isnan(values), -np.inf, values)
    return np.argsort(-values, kind="stable")[:num]
