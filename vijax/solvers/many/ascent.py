"""Gaussians that maximize the ELBO, for many data sets at once.

The steps, the average and the tests are those of `vijax.solvers.variational_newton`, on arrays with
a leading axis of rows, each of which belongs to a data set. Rows end one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.runtime.deadline import time_is_up
from vijax.runtime.streams import antithetic, whitened
from vijax.solvers.many.gaussians import Gaussians, log_normals

_NUM_DRAWS = 256
_CLIP = (0.1, 10.0)  # bounds on the factor by which a step changes the precision along an axis
_SHRINK, _MAX_SHRINKS = 0.7, 30
_MARGIN, _MAX_NOISE = 0.02, 0.25  # nats, see `variational_newton`
_CHECKED = (6, 8, 12, 16, 24, 32, 48)  # lengths of the average at which convergence is checked
_MIN_MAX_STEP, _MIN_STEP = 1 / 16, 1e-4
_MAX_STEPS = 100
_TOLERANCE = 0.002  # nats
_ENOUGH, _LARGEST = 16, 0.02  # iterates after which an average with this error will do, in nats
_FINAL_DRAWS = 512


class Ascended(NamedTuple):
    """Result for every row.

    Attributes:
        gaussians: the fits.
        elbo: by fresh draws, `(rows,)`; `-inf` where no draws were finite.
        converged: whether the ELBO stopped increasing and the average is accurate, `(rows,)`.
        steps: number of steps, `(rows,)`.
    """

    gaussians: Gaussians
    elbo: Floats
    converged: np.ndarray
    steps: np.ndarray


def ascend(
    kernel: StackedKernel,
    rngs: Sequence[np.random.Generator],
    start: Gaussians,
    sets: np.ndarray,
) -> Ascended:
    """Maximizes the ELBO from each of the starts.

    Args:
        kernel: log density and gradient of all sets.
        rngs: one generator for each row.
        start: one Gaussian for each row.
        sets: the data set of each row, in increasing order.
    """
    return _Ascent(kernel, rngs, start, sets).run()


class _Ascent:
    def __init__(
        self,
        kernel: StackedKernel,
        rngs: Sequence[np.random.Generator],
        start: Gaussians,
        sets: np.ndarray,
    ) -> None:
        num, dim = start.mean.shape
        self.kernel, self.rngs, self.sets = kernel, rngs, sets
        self.num_draws = max(_NUM_DRAWS, 4 * dim)
        self.gaussians, self.start = start.copy(), start
        self.elbo, self.se = np.full(num, -np.inf), np.full(num, np.inf)
        self.score, self.curvature = np.zeros((num, dim)), np.zeros((num, dim, dim))
        self.step, self.max_step = np.ones(num), np.ones(num)
        self.running, self.converged = np.ones(num, bool), np.zeros(num, bool)
        self.steps = np.zeros(num, int)
        self.kept: list[tuple[int, np.ndarray, Floats, Floats]] = []  # iterates to average
        self.count, self.since = np.zeros(num, int), np.zeros(num, int)  # since the ELBO last rose

    def run(self) -> Ascended:
        self._evaluate_start()
        self.highest = self.elbo.copy()
        self.running &= np.isfinite(self.elbo)
        for number in range(1, _MAX_STEPS + 1):
            rows = np.flatnonzero(self.running)
            if not rows.size or time_is_up():
                break
            self.steps[rows] = number
            self._advance(rows, number)
        return self._choose()

    def _evaluate_start(self) -> None:
        rows = np.arange(len(self.sets))
        for _ in range(_MAX_SHRINKS + 1):
            self._set(rows, *self._evaluate(rows, self.gaussians.take(rows)))
            rows = rows[~np.isfinite(self.elbo[rows])]
            if not rows.size:
                break
            self.gaussians.factor[rows] *= _SHRINK

    def _set(self, rows: np.ndarray, elbo: Floats, se: Floats, score: Floats, h: Floats) -> None:
        self.elbo[rows], self.se[rows] = elbo, se
        self.score[rows], self.curvature[rows] = score, h

    def _evaluate(
        self, rows: np.ndarray, gaussians: Gaussians
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """ELBO, its standard error, mean score and mean curvature in standard coordinates."""
        dim = gaussians.mean.shape[1]
        noise = whitened([self.rngs[i] for i in rows], self.num_draws, dim)
        log_density, gradient = self.kernel.at(gaussians.transform(noise), self.sets[rows])
        terms = log_density - log_normals(noise, gaussians.log_det)
        half = self.num_draws // 2
        pairs = 0.5 * (terms[:, :half] + terms[:, half:])
        scores = gradient @ gaussians.factor
        finite = np.isfinite(pairs).all(axis=1) & np.isfinite(scores).all(axis=(1, 2))
        elbo = np.where(finite, pairs.mean(axis=1), -np.inf)
        se = np.where(finite, pairs.std(axis=1, ddof=1) / np.sqrt(half), np.inf)
        scores = np.where(finite[:, None, None], scores, 0.0)
        residual = np.swapaxes(noise, 1, 2) @ (scores + noise) / self.num_draws
        curvature = np.eye(dim) - 0.5 * (residual + np.swapaxes(residual, 1, 2))
        return elbo, se, scores.mean(axis=1), curvature

    def _propose(self, rows: np.ndarray) -> Gaussians:
        step = self.step[rows]
        values, axes = np.linalg.eigh(self.curvature[rows])
        root = np.sqrt(np.clip((1 - step)[:, None] + step[:, None] * values, *_CLIP))
        factor = self.gaussians.factor[rows] @ (axes / root[:, None])
        shift = np.einsum("rij,ri->rj", axes, self.score[rows]) / root
        move = np.einsum("rij,rj->ri", factor, shift)
        return Gaussians(self.gaussians.mean[rows] + step[:, None] * move, factor)

    def _advance(self, rows: np.ndarray, number: int) -> None:
        proposal = self._propose(rows)
        elbo, se, score, curvature = self._evaluate(rows, proposal)
        allowed = _MARGIN + 4 * np.minimum(self.se[rows], _MAX_NOISE)
        better = elbo > self.elbo[rows] - allowed
        worse = rows[~better]
        self.step[worse] /= 4
        self.max_step[worse] = np.maximum(self.max_step[worse] / 2, _MIN_MAX_STEP)
        self.running[worse[self.step[worse] < _MIN_STEP]] = False
        kept, moved = rows[better], proposal.take(better)
        if not kept.size:
            return
        self.gaussians.put(kept, moved)
        self._set(kept, elbo[better], se[better], score[better], curvature[better])
        self.step[kept] = np.minimum(self.max_step[kept], 2 * self.step[kept])
        rising = self.elbo[kept] > self.highest[kept] + _MARGIN + 2 * self.se[kept]
        # the ELBO still increases: earlier iterates are not at the optimum
        self.since[kept[rising]], self.count[kept[rising]] = number, 0
        stored = kept[~rising]
        self.count[stored] += 1
        inverse = np.linalg.inv(self.gaussians.factor[stored])
        precision = np.swapaxes(inverse, 1, 2) @ inverse
        self.kept.append((number, stored, self.gaussians.mean[stored], precision))
        self.highest[kept] = np.maximum(self.highest[kept], self.elbo[kept])
        checked = stored[np.isin(self.count[stored], _CHECKED)]
        if checked.size:
            average, means, precisions, used = self._averages(checked)
            error = self._error(checked, average, means, precisions, used)
            tolerance = np.where(self.count[checked] >= _ENOUGH, _LARGEST, _TOLERANCE)
            done = checked[error < tolerance]
            self.converged[done], self.running[done] = True, False

    def _averages(self, rows: np.ndarray) -> tuple[Gaussians, Floats, Floats, np.ndarray]:
        """Averages of the kept iterates of some rows, these iterates, and which are in use."""
        place = np.full(len(self.sets), -1)
        place[rows] = np.arange(len(rows))
        dim = self.gaussians.mean.shape[1]
        first = int(self.since[rows].min())
        steps = [entry for entry in self.kept if entry[0] > first]
        means = np.zeros((len(rows), len(steps), dim))
        precisions = np.zeros((len(rows), len(steps), dim, dim))
        used = np.zeros((len(rows), len(steps)), bool)
        for t, (_, of, mean, precision) in enumerate(steps):
            inside = place[of] >= 0
            at = place[of[inside]]
            means[at, t], precisions[at, t] = mean[inside], precision[inside]
            used[at, t] = True
        # the last `count` of them are those since the ELBO last rose
        later = np.cumsum(used[:, ::-1], axis=1)[:, ::-1]
        used &= later <= self.count[rows][:, None]
        share = used / np.maximum(used.sum(axis=1), 1)[:, None]
        precision = np.einsum("rt,rtij->rij", share, precisions)
        values, axes = np.linalg.eigh(precision)
        factor = axes / np.sqrt(np.maximum(values, 1e-300))[:, None]
        return Gaussians(np.einsum("rt,rti->ri", share, means), factor), means, precisions, used

    def _error(
        self,
        rows: np.ndarray,
        average: Gaussians,
        means: Floats,
        precisions: Floats,
        used: np.ndarray,
    ) -> Floats:
        """ELBO loss in nats from the sampling error of the averages, `(rows,)`."""
        inverse = np.linalg.inv(average.factor)
        shift = np.einsum("rij,rtj->rti", inverse, means - average.mean[:, None])
        turned = np.swapaxes(average.factor, 1, 2)[:, None]
        change = turned @ precisions @ average.factor[:, None] - np.eye(average.mean.shape[1])
        each = 0.5 * np.sum(shift**2, axis=2) + 0.25 * np.sum(change**2, axis=(2, 3))
        total, count = np.sum(each * used, axis=1), self.count[rows]
        autocorrelation = (2 - self.max_step[rows]) / self.max_step[rows]
        return autocorrelation * total / (count * (count - 1))

    def _choose(self) -> Ascended:
        """The averages, unless the last iterate has a clearly better ELBO."""
        last, rows = self.gaussians.copy(), np.flatnonzero(self.count > 1)
        chosen = last.copy()
        if rows.size:
            chosen.put(rows, self._averages(rows)[0])
        noise = antithetic(self.rngs, _FINAL_DRAWS, last.mean.shape[1])
        terms, others = (self._terms(one, noise) for one in (chosen, last))
        gain = others - terms
        error = gain.std(axis=1) / np.sqrt(gain.shape[1])
        better = np.isfinite(others).all(axis=1) & (
            ~np.isfinite(terms).all(axis=1) | (gain.mean(axis=1) > _MARGIN + 4 * error)
        )
        chosen.put(better, last.take(better))
        final = np.where(better[:, None], others, terms)
        elbo = np.where(np.isfinite(final).all(axis=1), final.mean(axis=1), -np.inf)
        finite = np.isfinite(elbo) & np.isfinite(chosen.factor).all(axis=(1, 2))
        return Ascended(chosen, elbo, self.converged & finite, self.steps)

    def _terms(self, gaussians: Gaussians, noise: Floats) -> Floats:
        log_density, _ = self.kernel.at(gaussians.transform(noise), self.sets)
        terms = log_density - log_normals(noise, gaussians.log_det)
        half = terms.shape[1] // 2
        return 0.5 * (terms[:, :half] + terms[:, half:])
