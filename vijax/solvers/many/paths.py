"""Optimization paths on the log densities of many data sets, all advanced together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.solvers.optimization.lbfgs import LBFGS, MIN_GAIN, MultiPathRun
from vijax.solvers.optimization.paths import (
    CONVERGED,
    SLOW_PATH,
    Path,
    proposed_starts,
)

_ROUNDS = 25  # attempts at a start with a finite log density
_RADIUS = 2.0


class Iterates(NamedTuple):
    """All iterates of all paths, those of a path in order, its start not included.

    Attributes:
        path: index of the path, `(num,)`, increasing.
        point: `(num, dim)`.
        log_density: `(num,)`.
        gradient: of the log density, `(num, dim)`.
        diagonal: of the initial inverse Hessian, `(num, dim)`.
        s: steps of the last pairs, `(num, history, dim)`.
        y: changes of the gradient of the negative log density, likewise.
        rho: `1 / s'y`, zero where there is no pair, `(num, history)`.
    """

    path: np.ndarray
    point: Floats
    log_density: Floats
    gradient: Floats
    diagonal: Floats
    s: Floats
    y: Floats
    rho: Floats


class Ends(NamedTuple):
    """Where the paths of every set ended.

    Attributes:
        points: `(sets, paths, dim)`.
        log_density: `(sets, paths)`.
        gradient: `(sets, paths, dim)`.
        converged: `(sets, paths)`.
        reasons: why each path stopped, `(sets, paths)` strings.
    """

    points: Floats
    log_density: Floats
    gradient: Floats
    converged: np.ndarray
    reasons: np.ndarray

    def paths(self, i: int) -> list[Path]:
        """The ends of one set's paths."""
        columns = zip(self.points[i], self.log_density[i], self.gradient[i], strict=True)
        return [
            Path(point[None], np.array([value]), slope[None], reason)
            for (point, value, slope), reason in zip(columns, self.reasons[i], strict=True)
        ]


def starts_of_sets(
    kernel: StackedKernel,
    rngs: Sequence[np.random.Generator],
    sets: np.ndarray,
    num: int,
    first: Floats | None,
) -> Floats:
    """Starting points `(sets, num, dim)`, as `finite_starts` for each set.

    Args:
        kernel: log density and gradient of all sets.
        rngs: one generator for each of `sets`.
        sets: the data sets, increasing.
        num: number of paths of each.
        first: the start of the first path, `(dim,)`; `None` for none.
    """
    given = None if first is None else first[None]
    target = kernel.target
    starts = np.stack(
        [proposed_starts(target, kernel.dim, rng, num, given, _RADIUS) for rng in rngs]
    )
    flat, owner = starts.reshape(-1, kernel.dim), np.repeat(np.arange(len(sets)), num)
    invalid = np.arange(len(flat))
    for attempt in range(_ROUNDS):
        log_density, gradient = kernel(flat[invalid], sets[owner[invalid]])
        invalid = invalid[~(np.isfinite(log_density) & np.isfinite(gradient).all(axis=1))]
        if not invalid.size:
            break
        width = _RADIUS * 0.9**attempt
        for i in invalid:
            flat[i] = rngs[owner[i]].uniform(-width, width, kernel.dim)
    return kernel.round(flat).reshape(starts.shape)


def maximize_from(
    kernel: StackedKernel, starts: Floats, sets: np.ndarray, options: LBFGS
) -> tuple[Iterates, Ends]:
    """Maximizes the log density of each set from its starts `(sets, paths, dim)`."""
    run = _ManyPaths(options, kernel, starts, sets)
    run.ascend()
    return run.iterates(), run.ends()


class _ManyPaths(MultiPathRun):
    """Paths of many sets, as many of each: `paths` consecutive ones belong to a set."""

    def __init__(
        self, options: LBFGS, kernel: StackedKernel, starts: Floats, sets: np.ndarray
    ) -> None:
        self.many, self.per_set = kernel, starts.shape[1]
        self.set_of = np.repeat(sets, self.per_set)
        self.blocks: list[Iterates] = []
        self.waiting: list[int] = []  # paths to be probed
        points = starts.reshape(-1, kernel.dim)
        super().__init__(options, kernel, points, keep_iterates=False)  # type: ignore[arg-type]
        self.blocks = [Iterates(*(part[:0] for part in self.blocks[0]))]  # starts are none

    def evaluate(self, paths: np.ndarray, points: Floats) -> tuple[Floats, Floats]:
        return self.many(points, self.set_of[paths])

    def record(self, paths: np.ndarray) -> None:
        self.blocks.append(
            Iterates(
                np.array(paths),
                self.x[paths],
                -self.f[paths],
                -self.g[paths],
                self.diagonal[paths],
                self.s[paths].astype(np.float32),
                self.y[paths].astype(np.float32),
                self.rho[paths],
            )
        )

    def probe(self, i: int) -> None:
        self.waiting.append(i)

    def enforce_limits(self) -> None:
        if self.waiting:
            waiting, self.waiting = np.array(sorted(self.waiting)), []
            length, points = self.probe_points(waiting)
            dim = self.x.shape[1]
            values, slopes = self.evaluate(np.repeat(waiting, dim), points.reshape(-1, dim))
            values, slopes = values.reshape(-1, dim), slopes.reshape(points.shape)
            helps = values.max(axis=1) + self.f[waiting] > MIN_GAIN
            for j in np.flatnonzero(helps):
                i = int(waiting[j])
                self.use_probe(i, length[j], points[j], values[j], slopes[j])
        super().enforce_limits()

    def stop_slow(self, running: np.ndarray) -> None:
        grouped, used = running.reshape(-1, self.per_set), self.evaluations
        many = 2 * (~grouped).sum(axis=1) > self.per_set
        if not many.any():
            return
        done = np.where(grouped[many], np.nan, used.reshape(-1, self.per_set)[many])
        limit = np.full(len(grouped), np.inf)
        limit[many] = self.options.patience * np.nanmedian(done, axis=1) + 20
        slow = running & (used > np.repeat(limit, self.per_set)) & (self.reasons == "")
        self.reasons[slow] = SLOW_PATH

    def iterates(self) -> Iterates:
        """All iterates, ordered by path."""
        joined = Iterates(*(np.concatenate(part) for part in zip(*self.blocks, strict=True)))
        order = np.argsort(joined.path, kind="stable")
        return Iterates(*(part[order] for part in joined))

    def ends(self) -> Ends:
        """Where the paths are."""
        shape = (-1, self.per_set)
        return Ends(
            self.x.reshape(*shape, self.x.shape[1]),
            -self.f.reshape(shape),
            -self.g.reshape(*shape, self.x.shape[1]),
            (self.reasons == CONVERGED).reshape(shape),
            self.reasons.reshape(shape),
        )
