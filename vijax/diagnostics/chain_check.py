"""Checks a guide's moments, and mends its draws, by many short Markov chains that start at them.

Importance weights see only where the guide puts its draws; chains walk out of there. Where they
forget their starts and their moments agree with the guide's, two independent witnesses say the
same. Where they forget their starts and disagree, their states are better draws than the guide's.
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
from vijax.diagnostics.short_chains import Chains, Moments, Round

_NUM_CHAINS = 256
_ADAPT, _KEEP = 6, 8  # iterations of the first round, before and while states are kept
_ROUNDS = 6  # at most, each as long as all before it
_LEFT = 0.05  # sds or log sds of change still to come that a settled chain may have
_ERROR = 0.03  # standard error of a mean in sds, of a log sd likewise, that mended draws aim at
_ACCEPT = 0.65  # lowest acceptance rate of chains that can be believed
_TELLING = 0.4  # standard errors, as a share of a tolerance, that can tell whether it holds
_STUCK = 0.2  # acceptance rate of a chain that cannot get away from where it is
_STUCK_SHARE = 0.01  # of such chains: where one in a hundred is stuck, others never get to
_DENSE_DIM = 1000  # above, momenta are scaled coordinate by coordinate
_ELEMENTS = 2**32  # points times data elements that a check may cost: a second or two
_PATIENCE = 4  # times as many where only chains can make the answer usable
_POINTS = 400_000  # points that mending may cost however small the data


class ChainCheck(NamedTuple):
    """What short chains say about a guide, by coordinate `(dim,)` where not said otherwise.

    Attributes:
        mean: mean of the chains less the guide's, in posterior standard deviations.
        log_sd: log standard deviation of the chains less the guide's.
        mean_se: standard error of the chains' mean, in standard deviations.
        log_sd_se: standard error of their log standard deviation.
        guide_se: standard error of the guide's mean, in standard deviations, a number.
        left: change still to come, in sds of a mean or in log sds whichever is larger, judged
            from what the chains remember of their starts and from how far they still move.
        climb: the same for the log density, a number.
        tail: Pareto shape of the heavier tail of the states: from 0.5 there is no variance.
        accept: acceptance rate, a number.
        stuck: share of the chains that hardly moved, a number.
        num_chains: a number.
        leaps: gradient evaluations per chain.
    """

    mean: Floats
    log_sd: Floats
    mean_se: Floats
    log_sd_se: Floats
    guide_se: float
    left: Floats
    climb: float
    tail: Floats
    accept: float
    stuck: float
    num_chains: int
    leaps: int

    @property
    def settled(self) -> bool:
        """Whether the chains have forgotten their starts as far as it matters."""
        return self.moving and max(float(self.left.max(initial=0.0)), self.climb) < _LEFT

    @property
    def moving(self) -> bool:
        """Whether the chains move everywhere, as far as can be seen."""
        return self.accept > _ACCEPT and self.stuck <= _STUCK_SHARE

    @property
    def error(self) -> float:
        """The largest standard error."""
        return float(max(self.mean_se.max(initial=0.0), self.log_sd_se.max(initial=0.0)))

    def agrees(self, tolerance: float) -> bool:
        """Whether no moment of the guide is off by more than `tolerance`, or than chance allows.

        False where the errors are too large to tell.
        """
        return self.error < _TELLING * tolerance and self.consistent(tolerance)

    def consistent(self, tolerance: float) -> bool:
        """The same however large the errors are: whether nothing speaks against the guide."""
        worst = 1.5 + math.sqrt(2 * math.log(2 * self.mean.size))  # the largest of so many
        mean_noise = worst * np.hypot(self.mean_se, self.guide_se)
        log_sd_noise = worst * np.hypot(self.log_sd_se, self.guide_se / math.sqrt(2))
        return bool(
            np.all(np.abs(self.mean) < np.maximum(tolerance, mean_noise))
            and np.all(np.abs(self.log_sd) < np.maximum(tolerance, log_sd_noise))
        )

    @property
    def cut_short(self) -> bool:
        """Whether they move as they should, but ended before it could be told where to."""
        return self.moving and math.isinf(self.climb) and float(self.left.max(initial=0)) < _LEFT


def affordable(kernel: Kernel, needed: bool) -> int:
    """Points that a check of this target may evaluate, more where an answer needs mending."""
    return min(_POINTS, _ELEMENTS * (_PATIENCE if needed else 1) // kernel.num_elements)


def check(
    kernel: Kernel,
    draws: Floats,
    log_weights: Floats,
    labels: np.ndarray | None,
    rng: np.random.Generator,
    tolerance: float,
    mend: bool,
    budget: int,
    place: Callable[[Floats], Floats] | None = None,
) -> tuple[ChainCheck, Floats] | None:
    """Runs chains until they have settled or cost too much.

    Args:
        kernel: the compiled log density and gradient.
        draws: the guide's `(num_draws, dim)`.
        log_weights: normalized, `(num_draws,)`: the starts are resampled by them.
        labels: the modes that the draws belong to, `(num_draws,)`: no chain is expected to leave
            its own.
        rng: source of randomness.
        tolerance: the guide is checked no further once it agrees to this.
        mend: whether to go on where it does not, until the states can replace its draws.
        budget: points that may be evaluated, see `affordable`.
        place: where chains run in other coordinates than they are judged in, the way from these,
            which kernel and draws are in, to those `(num, dim)`.

    Returns:
        The check and the states `(num, dim)`, in no particular order; `None` where nothing is
        affordable or no chain can start.
    """
    num = min(_NUM_CHAINS, budget // 64)  # as many as can make some leaps each
    if num < 64 or len(draws) < num:
        return None
    modes = np.zeros(len(draws), int) if labels is None else labels
    # one mode after the other, at even levels: every mode gets its share of the chains
    order = np.argsort(modes, kind="stable")
    levels = (np.arange(num) + rng.random()) / num
    rows = np.searchsorted(np.cumsum(np.exp(log_weights[order])), levels)
    rows = order[np.minimum(rows, len(draws) - 1)]
    factor = _scale(markov.within(draws, modes), log_weights)
    placed = draws if place is None else place(draws)
    with np.errstate(all="ignore"):
        state = markov.begin(kernel, draws[rows], modes[rows])
        if len(state.states) < num // 2:
            return None
        iterations = _KEEP
        state = markov.advance(kernel, factor, state, rng, _ADAPT, adapt=True)
        rounds: list[Round] = []
        for _ in range(_ROUNDS):
            state = markov.advance(kernel, factor, state, rng, iterations, adapt=False)
            seen = _placed(state, place)
            rounds.append(markov.last_round(seen, iterations))
            found = _compare(seen, placed, markov.moments(seen), _drift(rounds))
            agrees = found.agrees(tolerance)
            done = found.settled and (agrees or (len(rounds) > 1 and found.error < _ERROR))
            if done or not (mend or found.settled):
                break
            if (2 * state.leaps + 8) * num > budget:
                break
            if not found.settled:  # what was kept still shows the starts: begin again from here
                pooled = state.kept.reshape(-1, kernel.dim)
                if len(pooled) > 10 * kernel.dim:
                    centered = markov.within(pooled, np.tile(state.modes, len(state.kept)))
                    factor = _scale(centered, np.full(len(pooled), -math.log(len(pooled))))
                state = markov.advance(kernel, factor, state, rng, iterations, adapt=True)
                state = state._replace(kept=state.kept[:0], heights=state.heights[:0])
            iterations *= 2
        if len(rounds) == 1 and not agrees:
            found = found._replace(climb=math.inf)  # one round does not say whether they move on
    pool = seen.kept.reshape(-1, kernel.dim)
    return found, pool[rng.permutation(len(pool))]


def _placed(state: Chains, place: Callable[[Floats], Floats] | None) -> Chains:
    """The chains in the coordinates that they are judged in."""
    if place is None:
        return state
    kept = place(state.kept.reshape(-1, state.kept.shape[-1])).reshape(state.kept.shape)
    return state._replace(starts=place(state.starts), states=place(state.states), kept=kept)


def _drift(rounds: list[Round]) -> Floats:
    """By how much the moments may move on, `(dim + 1,)`; see `ChainCheck.left`.

    A round is as long as all before it: chains that walk down a ridge move on by as much again.
    Where they have moved since the first round, by more than chance, the last change is taken as
    it is, and elsewhere only what chance does not explain.
    """
    if len(rounds) < 2:
        return np.zeros(rounds[0].mean.shape[1])
    worst = math.sqrt(2 * math.log(4 * rounds[0].mean.shape[1]))
    last, error = rounds[-1].since(rounds[-2])
    total, total_error = rounds[-1].since(rounds[0])
    moving = np.any(total > worst * total_error, axis=0) & (len(rounds) > 2)
    beyond = np.maximum(last - worst * error, 0.0)
    return np.where(moving, np.maximum(last - error, beyond), beyond).max(axis=0)


def _scale(points: Floats, log_weights: Floats) -> Floats:
    """A square root of the covariance of weighted points, or their sds."""
    weights = np.exp(log_weights)
    dim = points.shape[1]
    if 1 / np.sum(weights**2) < 10 * min(dim, 100):  # too few to tell a covariance from
        weights = np.full(len(points), 1 / len(points))
    centered = points - weights @ points
    sd = np.sqrt(weights @ centered**2)
    sd = np.where(sd > 0, sd, 1.0)
    if dim > _DENSE_DIM or len(points) < 4 * dim:
        return sd
    whitened = centered / sd
    correlation = (whitened * weights[:, None]).T @ whitened
    try:
        return sd[:, None] * np.linalg.cholesky(correlation + 1e-6 * np.eye(dim))
    except np.linalg.LinAlgError:
        return sd


def _compare(state: Chains, draws: Floats, found: Moments, drift: Floats) -> ChainCheck:
    """The moments of the kept states against those of the guide's draws and of the starts."""
    num, dim = state.starts.shape
    mean, sd = draws.mean(0), draws.std(0)
    before, spread = state.starts.mean(0), state.starts.std(0)
    noise = math.sqrt(2 * math.log(4 * dim) / num)  # largest correlation by chance
    memory = np.maximum(found.memory - noise, 0.0)
    change = np.maximum(np.abs(found.mean - before) / found.sd, np.abs(np.log(found.sd / spread)))
    forgotten = np.where(memory < 0.9, memory / (1 - memory), 10.0) * np.maximum(change, 0.05)
    return ChainCheck(
        mean=(found.mean - mean) / found.sd,
        log_sd=np.log(found.sd / sd),
        mean_se=found.mean_se / found.sd,
        log_sd_se=found.log_sd_se,
        guide_se=1 / math.sqrt(len(draws)),
        left=np.maximum(forgotten, drift[:-1]),
        climb=float(drift[-1]),
        tail=tail_shapes(state.kept.reshape(-1, dim)),
        accept=float(state.accept.mean()),
        stuck=float(np.mean(state.accept < _STUCK)),
        num_chains=num,
        leaps=state.leaps,
    )


def tail_shapes(points: Floats) -> Floats:
    """Pareto shape of the heavier of the two tails of every coordinate, `(dim,)`."""
    middle = np.median(points, axis=0)
    return np.array(
        [max(psis.tail_shape(column), psis.tail_shape(-column)) for column in (points - middle).T]
    )
