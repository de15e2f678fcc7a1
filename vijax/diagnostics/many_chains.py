"""The check of `vijax.diagnostics.chain_check` for many fits: their chains move together."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.diagnostics import chain_check
from vijax.diagnostics import short_chains as markov
from vijax.diagnostics.chain_check import ChainCheck, States
from vijax.diagnostics.short_chains import ChainState, WindowMoments
from vijax.runtime.deadline import time_is_up
from vijax.runtime.streams import standard_normal


@dataclasses.dataclass
class Checked:
    """A fit with its chains.

    Attributes:
        number: of its data set.
        draws: the guide's, `(num_draws, dim)`.
        log_weights: normalized, `(num_draws,)`.
        rng: source of randomness.
        budget: points that may be evaluated.
        found: the check, once it is finished; `None` if no chain can start.
        states: final states of the chains.
    """

    number: int
    draws: Floats
    log_weights: Floats
    rng: np.random.Generator
    budget: int
    found: ChainCheck | None = None
    states: States | None = None


def check_many(
    kernel: StackedKernel, fits: list[Checked], tolerance: float, correct: bool
) -> list[Checked]:
    """Runs the chains of all fits; those returned have a result.

    Args:
        kernel: log density and gradient of all sets.
        fits: ordered by their data sets.
        tolerance: see `chain_check.check`.
        correct: likewise.
    """
    chains = _Chains(kernel, fits, tolerance, correct)
    with np.errstate(all="ignore"):
        chains.run()
    return chains.finished


class _Chains:
    """The chains of all fits that are not finished: arrays `(fits, chains, ...)`."""

    def __init__(
        self, kernel: StackedKernel, fits: list[Checked], tolerance: float, correct: bool
    ) -> None:
        self.kernel, self.tolerance, self.correct = kernel, tolerance, correct
        self.finished: list[Checked] = []
        self.num = chain_check.num_chains(min(one.budget for one in fits))
        starts, factors = [], []
        for one in fits:
            modes = np.zeros(len(one.draws), int)
            starts.append(
                one.draws[chain_check.start_rows(one.log_weights, modes, self.num, one.rng)]
            )
            factors.append(
                _square(chain_check.covariance_root(one.draws - one.draws.mean(0), one.log_weights))
            )
        self.fits, self.factor = fits, np.stack(factors)
        self.states = kernel.round(np.stack(starts))
        self.starts = self.states.copy()
        sets = np.array([one.number for one in fits])
        self.log_density, self.gradient = kernel.at(self.states, sets)
        dim = kernel.dim
        self.step_size = np.full(len(fits), 0.9 * max(dim, 1) ** -0.25)
        self.num_gradients = np.zeros(len(fits), int)
        self.accept_rate = np.ones((len(fits), self.num))
        self.samples = np.zeros((0, *self.states.shape))
        self.sample_log_density = self.samples[..., 0]
        self.first = np.zeros(len(fits), int)  # samples before it are not used
        self.windows: list[list[WindowMoments]] = [[] for _ in fits]
        finite = np.isfinite(self.log_density) & np.isfinite(self.gradient).all(axis=2)
        self._keep(finite.all(axis=1))  # others are left to the check of a single fit

    def run(self) -> None:
        iterations = chain_check.NUM_SAMPLES
        self._advance(np.arange(len(self.fits)), chain_check.NUM_WARMUP, adapt=True)
        for number in range(1, chain_check.MAX_WINDOWS + 1):
            if not self.fits:
                return
            self._advance(np.arange(len(self.fits)), iterations, adapt=False)
            last = number == chain_check.MAX_WINDOWS or time_is_up()
            looks = [self._look(i, iterations, last) for i in range(len(self.fits))]
            going_on = np.array([one != "finished" for one in looks])
            again = np.array([one == "again" for one in looks])[going_on]
            self._keep(going_on)
            rows = np.flatnonzero(again)
            if rows.size:  # samples still depend on the starts: drop them, adapt again
                self._advance(rows, iterations, adapt=True)
                self.first[rows] = len(self.samples)
            iterations *= 2

    def _keep(self, which: np.ndarray) -> None:
        """Leaves the fits of `which` only."""
        rows = np.flatnonzero(which)
        if rows.size == len(self.fits):
            return
        self.fits = [self.fits[i] for i in rows]
        self.windows = [self.windows[i] for i in rows]
        for name in ("factor", "states", "starts", "log_density", "gradient", "step_size"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("num_gradients", "accept_rate", "first"):
            setattr(self, name, getattr(self, name)[rows])
        self.samples = self.samples[:, rows]
        self.sample_log_density = self.sample_log_density[:, rows]

    def _state(self, i: int) -> ChainState:
        return ChainState(
            self.starts[i],
            np.zeros(self.num, int),
            self.states[i],
            self.log_density[i],
            self.gradient[i],
            # coordinates one after another in memory: moments of each are several times as fast
            np.ascontiguousarray(np.moveaxis(self.samples[self.first[i] :, i], 2, 0)).transpose(
                1, 2, 0
            ),
            np.ascontiguousarray(self.sample_log_density[self.first[i] :, i]),
            float(self.step_size[i]),
            self.accept_rate[i],
            int(self.num_gradients[i]),
        )

    def _look(self, i: int, iterations: int, last: bool) -> Literal["finished", "on", "again"]:
        """Compares a fit with its chains; whether these go on, with other step sizes or not."""
        fit, state, windows = self.fits[i], self._state(i), self.windows[i]
        windows.append(markov.window_moments(state, iterations))
        found = chain_check.compare(state, fit.draws, chain_check.drift(windows), tails=False)
        agrees = found.agrees(self.tolerance)
        done = chain_check.is_done(found, agrees, len(windows), self.correct)
        over = chain_check.is_over_budget(state.num_gradients, self.num, fit.budget)
        if not (done or over or last):
            if found.converged:
                return "on"
            self.factor[i] = _square(chain_check.root_of_states(state, self.factor[i]))
            return "again"
        points = state.samples.reshape(-1, self.kernel.dim)
        found = found._replace(tail_shape=chain_check.tail_shapes(points))
        if len(windows) == 1 and not agrees:
            found = found._replace(log_density_drift=math.inf)  # one window does not show drift
        fit.found = found
        fit.states = chain_check.states_of(state.samples, state.sample_log_density, fit.rng)
        self.finished.append(fit)
        return "finished"

    def _advance(self, rows: np.ndarray, iterations: int, adapt: bool) -> None:
        """A window of HMC iterations of some fits; see `short_chains.advance`."""
        rngs = [self.fits[i].rng for i in rows]
        rates, samples, values = np.zeros((len(rows), self.num)), [], []
        for _ in range(iterations):
            sizes = zip(rngs, self.step_size[rows], strict=True)
            steps = [markov.trajectory_steps(rng, float(size)) for rng, size in sizes]
            size, count = (np.array(column) for column in zip(*steps, strict=True))
            momentum = standard_normal(rngs, self.states.shape[1:])
            ends = self._trajectory(rows, momentum, size, count)
            log_rate = np.where(np.isfinite(ends.log_ratio), np.minimum(ends.log_ratio, 0), -np.inf)
            uniform = np.stack([rng.random(self.num) for rng in rngs])
            accepted = np.log(uniform) < log_rate
            wide = accepted[..., None]
            self.states[rows] = np.where(wide, ends.points, self.states[rows])
            self.log_density[rows] = np.where(accepted, ends.log_density, self.log_density[rows])
            self.gradient[rows] = np.where(wide, ends.gradient, self.gradient[rows])
            rate = np.exp(log_rate)
            rates += rate / iterations
            self.num_gradients[rows] += count
            if adapt:
                self._adapt(rows, size, rate.mean(axis=1))
            else:
                samples.append(self.states.copy())
                values.append(self.log_density.copy())
        self.accept_rate[rows] = rates
        if samples:
            self.samples = np.concatenate([self.samples, np.stack(samples)])
            self.sample_log_density = np.concatenate([self.sample_log_density, np.stack(values)])

    def _adapt(self, rows: np.ndarray, size: Floats, rate: Floats) -> None:
        step = self.step_size[rows]
        adapted = markov.adapted_step(step, rate)
        self.step_size[rows] = np.where(size == step, adapted, step)

    def _trajectory(
        self, rows: np.ndarray, momentum: Floats, size: Floats, count: np.ndarray
    ) -> _Ends:
        """Leapfrog steps in whitened coordinates, `count` for each fit."""
        sets = np.array([self.fits[i].number for i in rows])
        factor, states, slope = self.factor[rows], self.states[rows], self.gradient[rows]
        kick = 0.5 * size[:, None, None]
        speed = momentum + kick * markov.clipped_gradient(slope @ factor)
        value, slope, points, speed = self.kernel.trajectories(
            states, speed, factor, size, count, markov.EXTREME, sets
        )
        change = 0.5 * (np.sum(speed**2, axis=2) - np.sum(momentum**2, axis=2))
        return _Ends(points, value, slope, (value - self.log_density[rows]) - change)


class _Ends(NamedTuple):
    """Where trajectories end, `(fits, chains, ...)`."""

    points: Floats
    log_density: Floats
    gradient: Floats
    log_ratio: Floats


def _square(factor: Floats) -> Floats:
    """A root of a covariance as a matrix, also where it is standard deviations."""
    return np.diag(factor) if factor.ndim == 1 else factor
