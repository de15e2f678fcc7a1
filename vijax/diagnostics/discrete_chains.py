"""Metropolis chains over discrete sites, which show values that a guide does not cover.

Each step changes one entry of every chain, swaps the values of two, or moves a part of one count to
another. Some chains start at draws of the guide, others at those of the prior and at random values.
Where all means agree with the guide's, chains from anywhere lead to what the guide covers, and
modes count as searched for. Source: Equation of State Calculations by Fast Computing Machines,
Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, 1953.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.diagnostics.enumeration import cardinalities
from vijax.runtime.deadline import time_is_up
from vijax.runtime.progress import advance, expect

_NUM_CHAINS = 128  # from the guide, and as many from random values
_BURN_IN = 4  # sweeps before the first window; a sweep changes and swaps every entry once
_WINDOWS = (4, 8, 16, 32, 64)  # sweeps over which means are taken
_MOVING = 0.9  # share of moves that are made, without which a single entry would alternate
_MIN_MOVES = 8  # of a sweep, however few entries there are
_POINTS = 1_000_000  # points that may be evaluated
_ELEMENTS = 2**30  # points times data elements
_TOLERANCE = 0.1  # sds by which means may differ
_FAR = 0.3  # sds from the guide that are conclusive for chains that started there
_CONCLUSIVE = 0.35  # sds: largest difference that may remain unseen
_RARE = 0.002  # probability of values that need not be covered
_TINY, _LOWEST = 1e-9, -1e300
_COSTLY = "other modes were not searched for: changing every discrete value takes too long"


class _Means(NamedTuple):
    """Means of features and their standard errors, `(num_features,)`."""

    mean: Floats
    se: Floats


def missed_values(
    kernel: Kernel,
    draws: Floats,
    log_weights: Floats,
    starts: Floats,
    rng: np.random.Generator,
) -> str:
    """How chains over the values of discrete sites differ from a guide, in words.

    Args:
        kernel: the log density of a target without continuous sites.
        draws: of the guide, `(num_draws, dim)`: indices of values.
        log_weights: normalized importance weights of the draws.
        starts: other values at which chains start, such as draws from the prior, `(num, dim)`.
        rng: source of randomness.

    Returns:
        What differs, or why that is not known; empty if nothing differs.
    """
    sizes = np.array(cardinalities(kernel.target.space))
    moves = max(_MIN_MOVES, 2 * kernel.dim)
    budget = min(_POINTS, _ELEMENTS // kernel.num_elements) // (2 * _NUM_CHAINS * moves)
    if budget < _BURN_IN + _WINDOWS[0] + _WINDOWS[1]:
        return _COSTLY
    weights = np.exp(log_weights)
    mean = weights @ draws
    sd = np.sqrt(weights @ (draws - mean) ** 2)
    constant = np.flatnonzero((sd == 0) & (sizes > 1))
    never = _never_drawn(kernel, draws[: _NUM_CHAINS // 2], constant, sizes)
    if never:
        return never
    levels = (np.arange(_NUM_CHAINS) + rng.random()) / _NUM_CHAINS
    rows = np.minimum(np.searchsorted(np.cumsum(weights), levels), len(draws) - 1)
    others = _random_values(sizes, mean, sd, rng)
    others[: len(starts)] = np.maximum(starts[:_NUM_CHAINS], 0)
    scales = np.maximum([np.ones_like(sd), 2.4 * sd, others.std(axis=0)], 1.0)
    chains = _Chains(kernel, np.concatenate([draws[rows], others]), sizes, scales, rng)
    chains.run(_BURN_IN * moves)
    num_random = chains.keep_finite()
    if num_random < _NUM_CHAINS // 2:
        return "other modes were not searched for: few random discrete values are possible"
    every = _features(draws, mean, sd)
    guide = _Means(weights @ every, np.sqrt(every.var(axis=0) * np.sum(weights**2)))
    used, different = _BURN_IN, 0
    for sweeps in _WINDOWS:
        expect(sweeps, "sweep")
        if used + sweeps > budget or time_is_up():
            break
        used += sweeps
        found, scale = chains.means(sweeps, moves, lambda at: _features(at, mean, sd))
        scale = np.maximum(scale, every.std(axis=0))
        means = [guide, _chain_means(found[:-num_random]), _chain_means(found[-num_random:])]
        largest, feature, noise = _compare(means, scale)
        if largest == 0 and noise < _CONCLUSIVE:
            return ""
        different = different + 1 if largest else 0
        left = _compare(means[:2], scale)[0] > _FAR  # where those started that began at the guide
        if left or (different > 1 and sweeps >= _WINDOWS[2]):
            break
    if different:
        return (
            "Metropolis chains that change and swap discrete values differ from the guide, or from "
            f"each other, in {kernel.label(feature % kernel.dim)!r} by {largest:.1f} sd"
        )
    return "other modes were not searched for: Metropolis chains were too short to be conclusive"


def _never_drawn(kernel: Kernel, draws: Floats, entries: np.ndarray, sizes: np.ndarray) -> str:
    """Whether other values of entries that are constant in a guide have some probability, in words.

    That is the mean over draws of their conditional probability given the other entries, which has
    hardly any noise, while chains may take long to meet a rare value.
    """
    draws = draws[: _POINTS // (1 + int(np.sum(sizes[entries] - 1)))]
    if not (entries.size and len(draws)):
        return ""
    log_density = kernel.log_density(draws)
    for entry in entries:
        others = (draws[0, entry] + np.arange(1, sizes[entry])) % sizes[entry]
        proposals = np.repeat(draws[None], len(others), axis=0)
        proposals[:, :, entry] = others[:, None]
        found = kernel.log_density(proposals.reshape(-1, kernel.dim)).reshape(len(others), -1)
        odds = np.exp(np.minimum(np.logaddexp.reduce(found, axis=0) - log_density, 700))
        probability = float(np.mean(odds / (1 + odds)))
        if probability > _RARE:
            return (
                f"values of {kernel.label(int(entry))!r} that the guide never draws have a "
                f"probability of {100 * probability:.2g} %"
            )
    return ""


class _Chains:
    """States `(num_chains, dim)` and log densities of the chains."""

    def __init__(
        self,
        kernel: Kernel,
        states: Floats,
        sizes: np.ndarray,
        scales: Floats,
        rng: np.random.Generator,
    ) -> None:
        self.kernel, self.sizes, self.scales, self.rng = kernel, sizes, scales, rng
        self.states, self.log_density = states, kernel.log_density(states)

    def run(self, num_moves: int) -> None:
        for move in range(num_moves):
            proposals = self._change() if move % 2 == 0 or self.kernel.dim == 1 else self._swap()
            inside = (proposals >= 0).all(axis=1)
            found = self.kernel.log_density(np.maximum(proposals, 0))
            log_ratio = found - np.maximum(self.log_density, _LOWEST)  # no inf - inf
            taken = inside & (np.log(self.rng.random(len(found))) < log_ratio)
            taken &= self.rng.random(len(found)) < _MOVING
            self.states = np.where(taken[:, None], proposals, self.states)
            self.log_density = np.where(taken, found, self.log_density)

    def keep_finite(self) -> int:
        """Ends chains that found no possible values; returns how many random ones remain."""
        finite = np.isfinite(self.log_density)
        self.states, self.log_density = self.states[finite], self.log_density[finite]
        return int(finite[_NUM_CHAINS:].sum())

    def means(
        self, sweeps: int, moves: int, features: Callable[[Floats], Floats]
    ) -> tuple[Floats, Floats]:
        """Means of features over the sweeps, by chain, and their sds over the last states."""
        total = np.zeros(())
        for _ in range(sweeps):
            self.run(moves)
            advance(1, "sweep")
            last = features(self.states)
            total = total + last
        return total / sweeps, last.std(axis=0)

    def _change(self) -> Floats:
        """Another value of a random entry: of finitely many each, of a count one nearby."""
        num, rows = len(self.states), np.arange(len(self.states))
        entry = self.rng.integers(self.kernel.dim, size=num)
        size, old = self.sizes[entry], self.states[rows, entry]
        other = (old + self.rng.integers(1, np.maximum(size, 2))) % np.maximum(size, 1)
        proposals = self.states.copy()
        proposals[rows, entry] = np.where(size > 0, other, old + self._steps(entry))
        return proposals

    def _swap(self) -> Floats:
        """Two entries of one kind with different values exchange them, or a part of a count."""
        num, rows = len(self.states), np.arange(len(self.states))
        first = self.rng.integers(self.kernel.dim, size=num)
        alike = self.sizes == self.sizes[first][:, None]
        differ = alike & (self.states != self.states[rows, first][:, None])
        part = (self.sizes[first] == 0) & (self.rng.random(num) < 0.5)
        alike[rows, first] = False
        allowed = np.where(part[:, None], alike, differ)
        second = np.argmax(self.rng.random(allowed.shape) * allowed, axis=1)
        possible = allowed[rows, second]
        proposals = self.states.copy()
        one, two = self.states[rows, first], self.states[rows, second]
        exchange = np.where(possible, two - one, 0.0)
        step = np.where(part & possible, self._steps(np.minimum(first, second)), exchange)
        proposals[rows, first] = one + step
        proposals[rows, second] = two - step
        return proposals

    def _steps(self, entry: np.ndarray) -> Floats:
        """Symmetric steps of counts, on the scale of one, of the guide or of all starts."""
        size = self.scales[self.rng.integers(len(self.scales), size=len(entry)), entry]
        step = np.ceil(np.abs(size * self.rng.normal(size=len(entry))))
        return step * self.rng.choice((-1.0, 1.0), len(entry))


def _random_values(sizes: np.ndarray, mean: Floats, sd: Floats, rng: np.random.Generator) -> Floats:
    """Starts `(num_chains, dim)`: any of finitely many values, counts well around the guide's."""
    shape = (_NUM_CHAINS, len(sizes))
    spread = (mean + 3 * sd * rng.normal(size=shape)) * np.exp(0.7 * rng.normal(size=shape))
    values = rng.integers(0, np.maximum(sizes, 1), shape)
    return np.where(sizes > 0, values, np.round(np.abs(spread))).astype(float)


def _features(states: Floats, mean: Floats, sd: Floats) -> Floats:
    """Values, their squared deviations, and whether it is the value 1 (for unordered values)."""
    squares = np.minimum((states - mean) ** 2, (8 * sd + 8) ** 2)
    return np.concatenate([states, squares, (states == 1).astype(float)], axis=1)


def _chain_means(means: Floats) -> _Means:
    """From means over each chain, which are independent."""
    return _Means(means.mean(axis=0), means.std(axis=0, ddof=1) / math.sqrt(len(means)))


def _compare(found: list[_Means], sd: Floats) -> tuple[float, int, float]:
    """The largest significant difference in sds and its feature, and the largest noise."""
    worst = 1.5 + math.sqrt(2 * math.log(3 * sd.size))
    largest, feature, noise = 0.0, 0, 0.0
    for one, other in itertools.combinations(found, 2):
        error = worst * np.hypot(one.se, other.se) / (sd + _TINY)
        difference = np.abs(one.mean - other.mean) / (sd + _TINY)
        difference = np.where(difference > np.maximum(error, _TOLERANCE), difference, 0.0)
        noise = max(noise, float(error.max()))
        if difference.max() > largest:
            largest, feature = float(difference.max()), int(difference.argmax())
    return largest, feature, noise
