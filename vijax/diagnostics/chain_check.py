"""Checks a guide's moments, and corrects its draws, with short Markov chains started at them.

Importance weights depend on the region that the guide's draws cover; chains can leave it. Where
chains forget their starts and their moments agree with the guide's, two independent diagnostics
agree. Where they forget their starts and disagree, their states are better draws than the guide's.
Source: Targeted Accuracy Diagnostics for Variational Approximations, Wang, Kasprzak, Huggins, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.diagnostics import psis
from vijax.diagnostics import short_chains as markov
from vijax.diagnostics.short_chains import ChainState, WindowMoments
from vijax.runtime.deadline import time_is_up

_NUM_CHAINS = 256
NUM_WARMUP, NUM_SAMPLES = 6, 8  # iterations of the first window, step size adaptation before it
MAX_WINDOWS = 6  # each as long as all before it
_FAR_MEAN, _FAR_LOG_SD = 2.0, 1.5  # shifts of moments beyond which a guide is elsewhere
_MAX_DRIFT = 0.05  # sds or log sds of change still expected of chains that count as converged
_NEARLY = 2.0  # multiple of that up to which chains that agree with a guide speak for it
_ERROR = 0.03  # target standard error of corrected draws, of a mean in sds and of a log sd
_MIN_ACCEPT_RATE = 0.65  # mean acceptance rate below which chains are not used
_CONCLUSIVE = 0.4  # standard errors, as a share of a tolerance, that suffice to test it
_STUCK_RATE = 0.2  # acceptance rate below which a chain counts as stuck
_MAX_STUCK_SHARE = 0.01  # share of stuck chains: more indicate regions that others do not reach
_DENSE_DIM = 1000  # above, coordinates are whitened by standard deviations only
_ELEMENTS = 2**32  # points times data elements that a check may cost: a second or two
_CORRECTION_FACTOR = 4  # times as many where only chains can correct the draws
_POINTS = 400_000  # points that a correction may evaluate however small the data


class ChainCheck(NamedTuple):
    """Comparison of a guide with short chains, by coordinate `(dim,)` unless stated otherwise.

    Attributes:
        mean: mean of the chains less the guide's, in posterior standard deviations.
        log_sd: log standard deviation of the chains less the guide's.
        mean_se: standard error of the chains' mean, in standard deviations.
        log_sd_se: standard error of their log standard deviation.
        guide_se: standard error of the guide's mean, in standard deviations, a scalar.
        drift: change still expected, the larger of that of the mean in sds and that of the log sd,
            estimated from correlation with the starts and from changes between windows.
        log_density_drift: the same for the log density, a scalar; `inf` where there was only one
            window.
        tail_shape: Pareto shape of the heavier tail of the states; no variance from 0.5.
        accept_rate: mean acceptance rate, a scalar.
        stuck_share: share of the chains that hardly moved, a scalar.
        num_chains: a scalar.
        num_gradients: gradient evaluations per chain.
        separate: whether chains stayed in the modes where they started, whose shares are therefore
            those of the importance weights.
    """

    mean: Floats
    log_sd: Floats
    mean_se: Floats
    log_sd_se: Floats
    guide_se: float
    drift: Floats
    log_density_drift: float
    tail_shape: Floats
    accept_rate: float
    stuck_share: float
    num_chains: int
    num_gradients: int
    separate: bool = False

    @property
    def converged(self) -> bool:
        """Whether the chains have forgotten their starts and no longer drift."""
        drift = max(float(self.drift.max(initial=0.0)), self.log_density_drift)
        return self.accepting and drift < _MAX_DRIFT

    @property
    def accepting(self) -> bool:
        """Whether the acceptance rate is high enough, and hardly any chain is stuck."""
        return self.accept_rate > _MIN_ACCEPT_RATE and self.stuck_share <= _MAX_STUCK_SHARE

    @property
    def error(self) -> float:
        """The largest standard error."""
        return float(max(self.mean_se.max(initial=0.0), self.log_sd_se.max(initial=0.0)))

    def agrees(self, tolerance: float) -> bool:
        """Whether all moments of the guide are within `tolerance` of the chains', or within noise.

        False where standard errors are too large to test the tolerance.
        """
        return self.error < _CONCLUSIVE * tolerance and self.consistent(tolerance)

    def consistent(self, tolerance: float) -> bool:
        """The same however large standard errors are: no discrepancy between guide and chains."""
        worst = 1.5 + math.sqrt(2 * math.log(2 * self.mean.size))  # the largest of so many
        mean_noise = worst * np.hypot(self.mean_se, self.guide_se)
        log_sd_noise = worst * np.hypot(self.log_sd_se, self.guide_se / math.sqrt(2))
        return bool(
            np.all(np.abs(self.mean) < np.maximum(tolerance, mean_noise))
            and np.all(np.abs(self.log_sd) < np.maximum(tolerance, log_sd_noise))
        )

    @property
    def far(self) -> bool:
        """Whether the chains ended where the guide has hardly any mass.

        Modes were then searched for around another place than the one where the mass is.
        """
        return bool(
            np.abs(self.mean).max(initial=0.0) > _FAR_MEAN
            or np.abs(self.log_sd).max(initial=0.0) > _FAR_LOG_SD
        )

    @property
    def too_short(self) -> bool:
        """Whether the chains ended after one window, too soon to assess their convergence."""
        single = math.isinf(self.log_density_drift)
        return self.accepting and single and float(self.drift.max(initial=0)) < _MAX_DRIFT

    @property
    def nearly_converged(self) -> bool:
        """Whether little drift is left, as where chains seldom cross between two modes."""
        drift = max(float(self.drift.max(initial=0.0)), self.log_density_drift)
        return self.accepting and drift < _NEARLY * _MAX_DRIFT


class States(NamedTuple):
    """States of the chains, in random order.

    Attributes:
        points: in the coordinates in which moments are compared, `(num, dim)`.
        log_density: the kernel's, `(num,)`.
        chain: index of the chain, `(num,)`.
    """

    points: Floats
    log_density: Floats
    chain: np.ndarray


def evaluation_budget(kernel: Kernel, correcting: bool) -> int:
    """Points that a check of this target may evaluate, more where draws have to be corrected.

    Args:
        kernel: the compiled log density and gradient.
        correcting: whether only chains can correct the draws.
    """
    return min(
        _POINTS, _ELEMENTS * (_CORRECTION_FACTOR if correcting else 1) // kernel.num_elements
    )


def check(
    kernel: Kernel,
    draws: Floats,
    log_weights: Floats,
    labels: np.ndarray | None,
    rng: np.random.Generator,
    tolerance: float,
    correct: bool,
    budget: int,
    transform: Callable[[Floats], Floats] | None = None,
) -> tuple[ChainCheck, States] | None:
    """Runs chains until they have converged or exhausted their budget.

    Args:
        kernel: the compiled log density and gradient.
        draws: the guide's `(num_draws, dim)`.
        log_weights: normalized, `(num_draws,)`: the starts are resampled by them.
        labels: mixture component of each draw, `(num_draws,)`: chains are not expected to mix
            between components.
        rng: source of randomness.
        tolerance: chains end once they agree with the guide to this, in sds or log sds.
        correct: whether to continue where they disagree, until the states can replace the draws.
        budget: points that may be evaluated, see `evaluation_budget`.
        transform: map `(num, dim)` from the coordinates of kernel and draws to those in which
            moments are compared; identity by default.

    Returns:
        The check and the states; `None` where the budget is too small or no chain can start.
    """
    num = num_chains(budget)
    if num < 64 or len(draws) < num:
        return None
    modes = np.zeros(len(draws), int) if labels is None else labels
    rows = start_rows(log_weights, modes, num, rng)
    factor = covariance_root(markov.center_by_mode(draws, modes), log_weights)
    guide_draws = draws if transform is None else transform(draws)
    with np.errstate(all="ignore"):
        state = markov.initialize(kernel, draws[rows], modes[rows])
        if len(state.states) < num // 2:
            return None
        iterations = NUM_SAMPLES
        state = markov.advance(kernel, factor, state, rng, NUM_WARMUP, adapt=True)
        windows: list[WindowMoments] = []
        for _ in range(MAX_WINDOWS):
            state = markov.advance(kernel, factor, state, rng, iterations, adapt=False)
            state = markov.join_modes(state)
            seen = _transformed(state, transform)
            windows.append(markov.window_moments(seen, iterations))
            found = compare(seen, guide_draws, drift(windows))
            agrees = found.agrees(tolerance)
            if is_done(found, agrees, len(windows), correct):
                break
            if is_over_budget(state.num_gradients, num, budget) or time_is_up():
                break
            if not found.converged:  # samples still depend on the starts: drop them, adapt again
                factor = root_of_states(state, factor)
                state = markov.advance(kernel, factor, state, rng, iterations, adapt=True)
                state = state._replace(
                    samples=state.samples[:0], sample_log_density=state.sample_log_density[:0]
                )
            iterations *= 2
        if len(windows) == 1 and not agrees:
            found = found._replace(log_density_drift=math.inf)  # one window does not show drift
    return found, states_of(seen.samples, state.sample_log_density, rng)


def num_chains(budget: int) -> int:
    """As many chains as can take some leapfrog steps each."""
    return min(_NUM_CHAINS, budget // 64)


def start_rows(
    log_weights: Floats, modes: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the draws that `num` chains start at, by weight.

    Systematic resampling of draws ordered by mode: every mode gets its share of the chains.
    """
    order = np.argsort(modes, kind="stable")
    levels = (np.arange(num) + rng.random()) / num
    rows = np.searchsorted(np.cumsum(np.exp(log_weights[order])), levels)
    return order[np.minimum(rows, len(modes) - 1)]


def is_done(found: ChainCheck, agrees: bool, windows: int, correct: bool) -> bool:
    """Whether chains end after so many windows."""
    done = found.converged and (agrees or (windows > 1 and found.error < _ERROR))
    return done or not (correct or found.converged)


def is_over_budget(num_gradients: int, num: int, budget: int) -> bool:
    """Whether another window of `num` chains, as long as all before it, exceeds the budget."""
    return (2 * num_gradients + 8) * num > budget


def root_of_states(state: ChainState, factor: Floats) -> Floats:
    """A root of the covariance of the samples, the present one if these are too few."""
    dim = state.samples.shape[2]
    pooled = state.samples.reshape(-1, dim)
    if len(pooled) <= 10 * dim:
        return factor
    centered = markov.center_by_mode(pooled, np.tile(state.modes, len(state.samples)))
    return covariance_root(centered, np.full(len(pooled), -math.log(len(pooled))))


def states_of(samples: Floats, log_density: Floats, rng: np.random.Generator) -> States:
    """The states `(num, chains, dim)` in random order."""
    points = samples.reshape(-1, samples.shape[2])
    order = rng.permutation(len(points))
    return States(points[order], log_density.ravel()[order], order % samples.shape[1])


def _transformed(state: ChainState, transform: Callable[[Floats], Floats] | None) -> ChainState:
    """The chains in the coordinates in which moments are compared."""
    if transform is None:
        return state
    samples = transform(state.samples.reshape(-1, state.samples.shape[-1]))
    return state._replace(
        starts=transform(state.starts),
        states=transform(state.states),
        samples=samples.reshape(state.samples.shape),
    )


def drift(windows: list[WindowMoments]) -> Floats:
    """Change of the moments still expected, `(dim + 1,)`; see `ChainCheck.drift`.

    A window is as long as all before it, so chains that move along a ridge are expected to move by
    as much again. Where they have moved since the first window, by more than chance, the last
    change counts as observed, elsewhere only its excess over noise.
    """
    if len(windows) < 2:
        return np.zeros(windows[0].mean.shape[1])
    worst = math.sqrt(2 * math.log(4 * windows[0].mean.shape[1]))
    last, error = windows[-1].change_since(windows[-2])
    total, total_error = windows[-1].change_since(windows[0])
    moving = np.any(total > worst * total_error, axis=0) & (len(windows) > 2)
    excess = np.maximum(last - worst * error, 0.0)
    return np.where(moving, np.maximum(last - error, excess), excess).max(axis=0)


def covariance_root(points: Floats, log_weights: Floats) -> Floats:
    """A square root of the covariance of weighted points, or their standard deviations."""
    weights = np.exp(log_weights)
    dim = points.shape[1]
    if 1 / np.sum(weights**2) < 10 * min(dim, 100):  # too few effective draws for a covariance
        weights = np.full(len(points), 1 / len(points))
    centered = points - weights @ points
    sd = np.sqrt(weights @ centered**2)
    sd = np.where(sd > 0, sd, 1.0)
    if dim > _DENSE_DIM or len(points) < 4 * dim:
        return sd
    standardized = centered / sd
    correlation = (standardized * weights[:, None]).T @ standardized
    try:
        return sd[:, None] * np.linalg.cholesky(correlation + 1e-6 * np.eye(dim))
    except np.linalg.LinAlgError:
        return sd


def compare(
    state: ChainState, draws: Floats, still_expected: Floats, tails: bool = True
) -> ChainCheck:
    """Moments of the samples compared with those of the guide's draws and of the starts.

    Args:
        state: the chains, in the coordinates of the draws.
        draws: the guide's `(num_draws, dim)`.
        still_expected: see `drift`.
        tails: whether to fit the tails of the states, which takes most of the time.
    """
    found = markov.moments(state)
    num, dim = state.starts.shape
    mean, sd = draws.mean(0), draws.std(0)
    start_mean, start_sd = state.starts.mean(0), state.starts.std(0)
    noise = math.sqrt(2 * math.log(4 * dim) / num)  # largest correlation by chance
    correlation = np.maximum(found.start_correlation - noise, 0.0)
    mean_change = np.abs(found.mean - start_mean) / found.sd
    change = np.maximum(mean_change, np.abs(np.log(found.sd / start_sd)))
    ratio = np.where(correlation < 0.9, correlation / (1 - correlation), 10.0)
    start_drift = ratio * np.maximum(change, 0.05)
    return ChainCheck(
        mean=(found.mean - mean) / found.sd,
        log_sd=np.log(found.sd / sd),
        mean_se=found.mean_se / found.sd,
        log_sd_se=found.log_sd_se,
        guide_se=1 / math.sqrt(len(draws)),
        drift=np.maximum(start_drift, still_expected[:-1]),
        log_density_drift=float(still_expected[-1]),
        tail_shape=tail_shapes(state.samples.reshape(-1, dim)) if tails else np.full(dim, -np.inf),
        accept_rate=float(state.accept_rate.mean()),
        stuck_share=float(np.mean(state.accept_rate < _STUCK_RATE)),
        num_chains=num,
        num_gradients=state.num_gradients,
        separate=bool(np.any(state.modes != state.modes[0])),
    )


def tail_shapes(points: Floats) -> Floats:
    """Pareto shape of the heavier of the two tails of every coordinate, `(dim,)`."""
    centered = points - np.median(points, axis=0)
    return np.maximum(psis.tail_shapes(centered), psis.tail_shapes(-centered))
