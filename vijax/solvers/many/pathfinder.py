"""Pathfinder for many data sets: paths, the modes they reached, and the Gaussians along them.

As `vijax.solvers.pathfinder`, with fewer candidates: eight of each path, of which the better half
is evaluated again. The Gaussians have dense covariances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.runtime.streams import antithetic
from vijax.solvers.many.gaussians import Gaussians, kullback_leibler, log_normals
from vijax.solvers.many.paths import Ends, Iterates, maximize_from, starts_of_sets
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.modes import assign_modes
from vijax.solvers.pathfinder.inverse_hessian import CompactGaussians
from vijax.solvers.pathfinder.pathfinder import MAX_LOSS, MIN_EXCESS, PathfinderResult

NUM_PATHS = 16
_CANDIDATES, _DRAWS = 8, 4  # of each path in the first round, and of each candidate
_FINALISTS, _FINAL_DRAWS = 2, 32
_MIN_DIP = 3.0  # nats, see `assign_modes`


class Found(NamedTuple):
    """What the paths of some sets found; `rows` are sets, in the order given.

    Attributes:
        start: the Gaussian of highest ELBO of each set.
        finite: whether there is any, `(rows,)`.
        modes: of each path, `(rows, paths)`, see `PathfinderResult.path_modes`.
        candidates: means `(rows, num, dim)` and factors `(rows, num, dim, dim)`, of all paths.
        elbos: of the candidates, `(rows, num)`.
        ends: where the paths ended.
    """

    start: Gaussians
    finite: np.ndarray
    modes: np.ndarray
    candidates: Gaussians
    elbos: Floats
    ends: Ends

    def uncovered(self, fits: Gaussians, elbo: Floats) -> np.ndarray:
        """Whether a fit has too little mass where a candidate is, `(rows,)`.

        Args:
            fits: one for each row.
            elbo: their ELBOs, `(rows,)`.
        """
        rows, num, dim = self.candidates.mean.shape
        flat = Gaussians(
            self.candidates.mean.reshape(-1, dim), self.candidates.factor.reshape(-1, dim, dim)
        )
        repeated = Gaussians(np.repeat(fits.mean, num, axis=0), np.repeat(fits.factor, num, axis=0))
        excess = self.elbos + kullback_leibler(flat, repeated).reshape(rows, num) - elbo[:, None]
        high = self.elbos > elbo[:, None] - MAX_LOSS
        return np.any(high & ~(excess <= MIN_EXCESS), axis=1)

    def result(self, i: int) -> PathfinderResult:
        """The result of one set, with what the search for modes needs."""
        kept = np.flatnonzero(np.isfinite(self.elbos[i]))
        per_path = self.elbos.shape[1] // self.modes.shape[1]
        factor = self.candidates.factor[i, kept]
        norms = np.linalg.norm(factor, axis=1)
        compact = CompactGaussians(
            self.candidates.mean[i, kept],
            np.ones((len(kept), factor.shape[1])),
            factor / norms[:, None],
            norms,
        )
        empty = np.zeros(0)
        best = int(np.argmax(self.elbos[i]))
        return PathfinderResult(
            gaussian=self.start.row(i),
            elbo=float(self.elbos[i, best]),
            elbo_se=0.0,
            path_elbos=self.elbos[i].reshape(-1, per_path).max(axis=1),
            best_path=best // per_path,
            path_reasons=tuple(self.ends.reasons[i]),
            candidates=compact,
            candidate_elbos=self.elbos[i, kept],
            candidate_paths=kept // per_path,
            components=None,
            draws=np.zeros((0, factor.shape[1])),
            log_weights=empty,
            path_modes=self.modes[i],
        )


def find(
    kernel: StackedKernel,
    rngs: Sequence[np.random.Generator],
    sets: np.ndarray,
    first: Floats | None = None,
) -> Found:
    """Runs paths on each of `sets`, increasing; arguments as in `starts_of_sets`."""
    starts = starts_of_sets(kernel, rngs, sets, NUM_PATHS, first)
    iterates, ends = maximize_from(kernel, starts, sets, LBFGS())
    chosen, valid = _equidistant(iterates.path, len(sets) * NUM_PATHS)
    gaussians = _approximations(iterates, chosen)
    evaluate = _Evaluation(kernel, rngs, sets)
    _, lower = evaluate(gaussians, valid, _DRAWS)
    best = np.argsort(-lower.reshape(-1, _CANDIDATES), axis=1, kind="stable")[:, :_FINALISTS]
    rows = (np.arange(len(best))[:, None] * _CANDIDATES + best).ravel()
    finalists = gaussians.take(rows)
    elbo, lower = evaluate(finalists, np.isfinite(lower.ravel()[rows]), _FINAL_DRAWS)
    dim, num = kernel.dim, lower.shape[1]
    candidates = Gaussians(
        finalists.mean.reshape(-1, num, dim), finalists.factor.reshape(-1, num, dim, dim)
    )
    top, each = np.argmax(lower, axis=1), np.arange(len(sets))
    start = Gaussians(candidates.mean[each, top], candidates.factor[each, top])
    finite = np.isfinite(lower).any(axis=1)
    return Found(start, finite, _modes(kernel, sets, ends), candidates, elbo, ends)


def _equidistant(path: np.ndarray, num_paths: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a few iterates of every path, and whether each is one that is not there twice."""
    counts = np.bincount(path, minlength=num_paths)
    first = np.cumsum(counts) - counts
    share = np.linspace(0.0, 1.0, _CANDIDATES)
    place = np.round(share * np.maximum(counts - 1, 0)[:, None]).astype(int)
    valid = (counts > 0)[:, None] & (np.diff(place, axis=1, prepend=-1) > 0)
    chosen = np.minimum(first[:, None] + place, max(len(path) - 1, 0))
    return chosen.ravel(), valid.ravel()


def _approximations(iterates: Iterates, chosen: np.ndarray) -> Gaussians:
    """`N(x + H g, H)` at some iterates, with `H` the inverse Hessian of L-BFGS."""
    if not len(iterates.path):
        dim = iterates.point.shape[1]
        return Gaussians(np.zeros((len(chosen), dim)), np.tile(np.eye(dim), (len(chosen), 1, 1)))
    point, gradient, diagonal = (
        part[chosen] for part in (iterates.point, iterates.gradient, iterates.diagonal)
    )
    s, y, rho = (part[chosen].astype(float) for part in (iterates.s, iterates.y, iterates.rho))
    num, history, dim = s.shape
    q = np.tile(np.eye(dim), (num, 1, 1))
    weights = np.zeros((history, num, dim))
    for j in reversed(range(history)):  # the two-loop recursion on all unit vectors
        weights[j] = rho[:, j, None] * (q @ s[:, j, :, None])[..., 0]
        q -= weights[j][..., None] * y[:, None, j]
    q *= diagonal[:, None]
    for j in range(history):
        correction = rho[:, j, None] * (q @ y[:, j, :, None])[..., 0]
        q += (weights[j] - correction)[..., None] * s[:, None, j]
    q = 0.5 * (q + np.swapaxes(q, 1, 2))
    usable: np.ndarray = np.asarray(np.isfinite(q).all(axis=(1, 2)))
    values, axes = np.linalg.eigh(np.where(usable[:, None, None], q, np.eye(dim)))
    # positive in exact arithmetic; the bound guards against rounding
    values = np.maximum(values, 1e-12 * values[:, -1:])
    mean = point + (q @ gradient[..., None])[..., 0]
    mean = np.where(usable[:, None], mean, np.nan)
    return Gaussians(mean, axes * np.sqrt(values)[:, None])


class _Evaluation(NamedTuple):
    """ELBOs of candidates, as many of each set, with draws common to those of a set."""

    kernel: StackedKernel
    rngs: Sequence[np.random.Generator]
    sets: np.ndarray

    def __call__(self, gaussians: Gaussians, valid: np.ndarray, num: int) -> tuple[Floats, Floats]:
        """The ELBOs and their lower bounds, `(sets, candidates)`, `-inf` if not valid or finite."""
        per_set = len(gaussians.mean) // len(self.sets)
        noise = antithetic(self.rngs, num, self.kernel.dim)
        noise = np.repeat(noise, per_set, axis=0)
        valid = valid & np.isfinite(gaussians.mean).all(axis=1)
        rows = np.flatnonzero(valid)
        used, noise = gaussians.take(rows), noise[rows]
        log_density, _ = self.kernel.at(used.transform(noise), np.repeat(self.sets, per_set)[rows])
        terms = log_density - log_normals(noise, used.log_det)
        pairs = terms[:, : num // 2] + terms[:, num // 2 :]
        elbo, lower = (np.full(len(valid), -np.inf) for _ in range(2))
        mean, error = terms.mean(axis=1), pairs.std(axis=1) / np.sqrt(2 * num)
        finite = np.isfinite(mean)
        elbo[rows[finite]] = mean[finite]
        lower[rows[finite]] = (mean - 2 * error)[finite]
        return elbo.reshape(-1, per_set), lower.reshape(-1, per_set)


def _modes(kernel: StackedKernel, sets: np.ndarray, ends: Ends) -> np.ndarray:
    """The mode that each path reached; see `assign_modes`.

    Where the log density does not dip between the best end and any other, there is one mode.
    """
    values = np.where(ends.converged, ends.log_density, -np.inf)
    each = np.arange(len(sets))
    best = np.argmax(values, axis=1)
    top = ends.points[each, best]
    between = [top[:, None] + t * (ends.points - top[:, None]) for t in (0.25, 0.5, 0.75)]
    lines = kernel.at(np.concatenate(between, axis=1), sets)[0].reshape(len(sets), 3, -1)
    connected = lines.min(axis=1) > values - _MIN_DIP
    level = values > values[each, best][:, None] - _MIN_DIP
    single = np.all((connected & level) | ~ends.converged, axis=1)
    modes = np.where(ends.converged, 0, -1)
    for i in np.flatnonzero(~single):
        modes[i] = assign_modes(kernel.of_set(int(sets[i])), ends.paths(int(i)))
    return modes
