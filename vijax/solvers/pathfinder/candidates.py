"""Candidates along quasi-Newton paths: which to evaluate, and their ELBOs, all in one go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.gaussians.dense import log_normal
from vijax.solvers.optimization.paths import Path
from vijax.solvers.pathfinder.inverse_hessian import (
    CompactGaussians,
    candidates,
    concatenate,
    predicted_elbo,
)

_MOST = 200  # iterates of one path that are looked at
_APART = 0.04  # of a path's length, between two of its finalists


class Scored(NamedTuple):
    """Candidates of one path with their ELBOs and the draws these came from.

    Attributes:
        gaussians: the candidates, a stack of `num`.
        rows: which iterate each belongs to, `(num,)`.
        elbos: `(num,)`, -inf where a draw was not finite.
        bounds: the ELBOs less two standard errors, `(num,)`. The highest of many noisy ELBOs
            tends to belong to a noisy candidate; the highest bound to a good one.
        draws: `(num, num_draws, dim)`.
        log_density: of the draws, `(num, num_draws)`.
    """

    gaussians: CompactGaussians
    rows: np.ndarray
    elbos: Floats
    bounds: Floats
    draws: Floats
    log_density: Floats


def shortlist(path: Path, history: int, num: int) -> tuple[CompactGaussians, np.ndarray]:
    """Candidates of a path worth evaluating, and the iterates they belong to.

    `num` of highest predicted ELBO and as many at even distances: on a path that runs away into
    a funnel the predictions are worthless, and the good candidates lie in the middle.
    """
    last = len(path.points) - 1
    rows = np.unique(np.linspace(1, last, min(last, _MOST)).round().astype(int))
    stacks = list(candidates(path, rows, history))
    gaussians = concatenate(stacks)
    predicted = predicted_elbo(path, rows, gaussians)
    spaced = np.linspace(0, len(rows) - 1, min(len(rows), num)).round().astype(int)
    keep = np.union1d(leaders(predicted, num), spaced)
    return gaussians.take(keep), rows[keep]


def finalists(scored: Scored, length: int, num: int) -> tuple[CompactGaussians, np.ndarray]:
    """The best few candidates of a path of `length` iterates that are not next to one another."""
    chosen: list[int] = []
    for i in leaders(scored.bounds, len(scored.bounds)):
        near = any(abs(scored.rows[i] - scored.rows[j]) < _APART * length for j in chosen)
        if np.isfinite(scored.elbos[i]) and not near:
            chosen.append(int(i))
        if len(chosen) == num:
            break
    keep = np.array(chosen, int)
    return scored.gaussians.take(keep), scored.rows[keep]


def score(
    kernel: Kernel, fields: dict[int, tuple[CompactGaussians, np.ndarray]], noise: Floats
) -> dict[int, Scored]:
    """ELBOs of all candidates of all paths, their draws sent through the kernel together.

    Args:
        kernel: the compiled log density and gradient.
        fields: candidates and their iterates by path.
        noise: standard normal `(num_draws, dim)` in mirrored pairs, see `antithetic`; the same
            for all, because differences are what matters.
    """
    draws = {i: gaussians.at(noise) for i, (gaussians, _) in fields.items()}
    if not draws:
        return {}
    points = np.concatenate([block.reshape(-1, kernel.dim) for block in draws.values()])
    log_density, _ = kernel(points)
    scored, start = {}, 0
    for i, block in draws.items():
        gaussians, rows = fields[i]
        stop = start + block.shape[0] * block.shape[1]
        values = log_density[start:stop].reshape(block.shape[:2])
        start = stop
        terms = values - log_normal(noise, gaussians.log_det[:, None])
        elbos = terms.mean(axis=1)
        pairs = terms[:, : len(noise) // 2] + terms[:, len(noise) // 2 :]  # mirrored draws
        errors = pairs.std(axis=1) / np.sqrt(2 * len(noise))
        bounds = np.where(np.isfinite(elbos), elbos - 2 * errors, -np.inf)
        scored[i] = Scored(gaussians, rows, elbos, bounds, block, values)
    return scored


def leaders(scores: Floats, num: int) -> np.ndarray:
    """Positions of the `num` highest scores, the highest first; NaN counts as lowest."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    return np.argsort(-scores, kind="stable")[:num]
