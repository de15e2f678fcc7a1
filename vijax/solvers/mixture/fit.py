"""The fit of a mixture: restarts on a subsample, coordinate ascent, moves until none helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vijax.solvers.mixture import programs
from vijax.solvers.mixture.mixture import Mixture
from vijax.solvers.mixture.moves import BATCH, Sample, proposals
from vijax.solvers.mixture.rows import Rows, rows_of
from vijax.solvers.mixture.start import assigned, plus_plus
from vijax.solvers.mixture.sweep import HISTORY

_SUBSAMPLE = 8192  # rows on which restarts and moves are tried
_TRIAL = 15  # sweeps of a restart or a move before it is compared
_CONFIRM = 5  # sweeps over all rows for a move that raised the bound of the subsample
_CANDIDATES = 2  # proposals of a round that are tried on all rows
_FAILURES = 3  # rounds of moves without success that end the fit
_COARSE = 1e-5  # nats a row, by which an ascent has to rise while there are moves left
_CALL = 0.5  # seconds of a call of the compiled loop
_ROUNDING = 1e-8  # relative fall of the bound that is a rounding error


class Fit(NamedTuple):
    """A fitted mixture.

    Attributes:
        posterior: variational posterior.
        coefficients: of the features in its logits, `(K, p)`.
        statistics: of its next update, `(K, p)`, from which a later fit continues.
        elbo: evidence lower bound in nats.
        elbos: of all sweeps that led to it, without those of moves that were refused.
        num_sweeps: passes over all rows.
        num_moves: moves that were accepted.
        converged: whether the bound stopped rising by more than the tolerance.
    """

    posterior: Mixture
    coefficients: np.ndarray
    statistics: np.ndarray
    elbo: float
    elbos: tuple[float, ...]
    num_sweeps: int
    num_moves: int
    converged: bool


class Problem:
    """A prior and data.

    Args:
        prior: of the mixture.
        num_components: `K`.
        data: `(N, d)`, float64, near the origin.
        offset: of the features, `(p,)`.
        rng: source of the subsample, the starts and the moves.
    """

    def __init__(
        self,
        prior: Mixture,
        num_components: int,
        data: np.ndarray,
        offset: np.ndarray,
        rng: np.random.RandomState,
    ) -> None:
        self.prior, self.data, self.offset, self.rng = prior, data, offset, rng
        self.components = type(prior.components)
        self.num_components = num_components
        self.rows = rows_of(data, self.components, offset, self.num_components)
        self._sample: tuple[np.ndarray, Rows] | None = None

    def subsample(self) -> tuple[np.ndarray, Rows]:
        """At most `_SUBSAMPLE` rows without replacement, and their blocks for `BATCH` mixtures."""
        count = len(self.data)
        if self._sample is None or count > _SUBSAMPLE:
            data, scale = self.data, 1.0
            if count > _SUBSAMPLE:
                data = data[self.rng.choice(count, _SUBSAMPLE, replace=False)]
                scale = count / _SUBSAMPLE
            columns = BATCH * self.num_components
            self._sample = data, rows_of(data, self.components, self.offset, columns, scale)
        return self._sample


def first_statistics(
    problem: Problem, num_starts: int, *, tolerance: float, max_sweeps: int, max_moves: int
) -> np.ndarray:
    """Of the best of several starts after a few sweeps, `(K, p)`.

    Of many rows, a subsample is fitted first, moves included, with a posterior of its own size: if
    its rows counted as much as all, noise would look like clusters.

    Args:
        problem: prior and data.
        num_starts: number of starts.
        tolerance: of the fit of a subsample, see `fit`.
        max_sweeps: see `fit`.
        max_moves: see `fit`.
    """
    few = problem
    if len(problem.data) > _SUBSAMPLE:
        count, data = problem.num_components, problem.subsample()[0]
        few = Problem(problem.prior, count, data, problem.offset, problem.rng)
    best = _best_start(few, num_starts)
    if few is problem:
        return best
    found = fit(few, best, tolerance=tolerance, max_sweeps=max_sweeps, max_moves=max_moves)
    return found.statistics * (len(problem.data) / len(few.data))


def _best_start(problem: Problem, num_starts: int) -> np.ndarray:
    """Statistics after a few sweeps from the start with the highest bound."""
    data, rows = problem.subsample()
    scales = np.std(data, axis=0)
    standard = data / np.where(scales > 0, scales, 1.0)

    def start() -> np.ndarray:
        count = problem.num_components
        labels = plus_plus(standard, count, problem.rng)
        return assigned(problem.components, data, labels, count, problem.offset)

    best, highest = start(), -np.inf
    if num_starts == 1 or problem.num_components == 1:
        return best
    for _ in range(0, num_starts, BATCH):
        starts = [start() for _ in range(min(BATCH, num_starts))]
        starts += starts[:1] * (BATCH - len(starts))
        found, elbos = programs.refine(rows, np.stack(starts), problem.prior, _TRIAL)
        if np.max(elbos) > highest:
            best, highest = found[np.argmax(elbos)], np.max(elbos)
    return best


def fit(
    problem: Problem,
    statistics: np.ndarray,
    *,
    tolerance: float,
    max_sweeps: int,
    max_moves: int = 0,
    report: Callable[[int, float], None] = lambda sweep, elbo: None,
) -> Fit:
    """Coordinate ascent from given statistics, and moves.

    Args:
        problem: prior and data.
        statistics: sums of features, `(K, p)`.
        tolerance: ends an ascent when the bound rises by less, in nats.
        max_sweeps: of one ascent, at least 1.
        max_moves: most merges, deletions and splits that are accepted.
        report: called with the number of sweeps of an ascent and the bound.
    """
    if max_moves == 0 or problem.num_components == 1:
        return _ascent(problem, statistics, tolerance, max_sweeps, report)
    coarse = max(tolerance, _COARSE * len(problem.data))
    best = _ascent(problem, statistics, coarse, max_sweeps, report)
    failures = 0
    while best.num_moves < max_moves and failures < _FAILURES:
        before = best.num_moves
        for candidate in _candidates(problem, best, coarse):
            trial = _ascent(problem, candidate, coarse, _CONFIRM, lambda sweep, elbo: None)
            best = best._replace(num_sweeps=best.num_sweeps + trial.num_sweeps)
            if trial.elbo > best.elbo + coarse:
                rest = _ascent(problem, trial.statistics, coarse, max_sweeps, report)
                best = _joined(_joined(best, trial), rest)._replace(num_moves=before + 1)
                break
        failures = 0 if best.num_moves > before else failures + 1
    rest = _ascent(problem, best.statistics, tolerance, max_sweeps, report)
    return _joined(best, rest)


def _candidates(problem: Problem, best: Fit, tolerance: float) -> Iterator[np.ndarray]:
    """Statistics `(K, p)` of moves that raise the bound on the subsample, the best first."""
    data, rows = problem.subsample()
    shares, _ = programs.responsibilities(rows, best.coefficients)
    by_row = shares.transpose(0, 2, 1).reshape(-1, problem.num_components)[: len(data)]
    sample = Sample(data, by_row, problem.offset, rows.scale)
    proposed = proposals(problem.components, best.statistics, sample, problem.rng)
    found, elbos = programs.refine(rows, proposed, problem.prior, _TRIAL)
    for i in np.argsort(-elbos)[:_CANDIDATES]:
        if elbos[i] > elbos[0] + tolerance:
            yield found[i]


def _joined(before: Fit, after: Fit) -> Fit:
    """A fit that continues another one, with the sweeps of both."""
    elbos = [elbo for elbo in after.elbos if elbo > before.elbo]
    return after._replace(
        elbos=(*before.elbos, *elbos),
        num_sweeps=before.num_sweeps + after.num_sweeps,
        num_moves=before.num_moves,
    )


def _ascent(
    problem: Problem,
    statistics: np.ndarray,
    tolerance: float,
    max_sweeps: int,
    report: Callable[[int, float], None],
) -> Fit:
    """Sweeps over all rows, in calls of about half a second, between which Ctrl-C is noticed."""
    elbos: list[float] = []
    gain, limit, elbo = np.inf, 1, -np.inf
    while True:
        start = time.perf_counter()
        limit = min(limit, max_sweeps - len(elbos))
        found: Any = programs.ascend(
            problem.rows, statistics, problem.prior, elbo, limit, tolerance
        )
        count = int(found.num_sweeps)
        elbos += found.elbos[:count].tolist()
        statistics, elbo, gain = found.statistics, float(found.elbo), float(found.gain)
        report(len(elbos), elbo)
        if gain < tolerance or len(elbos) == max_sweeps or not np.isfinite(elbo):
            break
        pace = (time.perf_counter() - start) / count
        limit = int(np.clip(_CALL / pace, 1, HISTORY)) if len(elbos) > 1 else 2
    steady = -_ROUNDING * abs(elbo) <= gain < tolerance
    count, posterior, coefficients = len(elbos), found.posterior, found.coefficients
    return Fit(posterior, coefficients, statistics, elbo, tuple(elbos), count, 0, steady)
