"""Many short Markov chains from a guide's draws: what they forget of the guide, it had wrong.

Every chain starts at a draw of its own and moves by Hamiltonian Monte Carlo in the guide's own
coordinates, where a good guide leaves a target close to a standard normal: a trajectory of length
about pi/2 then forgets its start at once. What is left of the start is measured, not assumed: if a
coordinate of all chains still correlates by `r` with where they began, about `r / (1 - r)` of the
change so far is still to come. Sources: Targeted Accuracy Diagnostics for Variational
Approximations, Wang, Kasprzak, Huggins, 2023 (short chains as a check); Following Markov chains
from variational draws, Hoffman, Ma, 2020; Nested R-hat: assessing the convergence of Markov chain
Monte Carlo when running many short chains, Margossian et al., 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel

_ACCEPT = 0.8  # acceptance rate aimed at
_LENGTH = np.pi / 2  # of a trajectory, in standard deviations: a quarter turn of the Gaussian
_MAX_LEAPS = 24
_SHORT, _SHORT_SHARE = 1 / 3, 0.2
_EXTREME = 1e3  # a whitened gradient beyond this is cut: outside the bulk it only sets a direction


class Chains(NamedTuple):
    """Where the chains are, and where they were.

    Attributes:
        starts: `(num_chains, dim)`.
        modes: the mode each chain started in, `(num_chains,)`; it need not find another.
        states: the present states, `(num_chains, dim)`.
        log_density: at the states.
        gradient: at the states, `(num_chains, dim)`.
        kept: states after every iteration of the rounds kept so far, `(num, num_chains, dim)`.
        heights: log densities there, `(num, num_chains)`.
        step: leapfrog step size, in standard deviations.
        accept: acceptance rates of the last round, `(num_chains,)`.
        leaps: gradient evaluations per chain so far.
    """

    starts: Floats
    modes: np.ndarray
    states: Floats
    log_density: Floats
    gradient: Floats
    kept: Floats
    heights: Floats
    step: float
    accept: Floats
    leaps: int


class Moments(NamedTuple):
    """What the chains say of the posterior, by coordinate.

    Attributes:
        mean: `(dim,)`.
        sd: `(dim,)`.
        mean_se: standard error of `mean`, from the spread between chains.
        log_sd_se: standard error of `log sd` likewise.
        memory: correlation of the states with the starts, of values or of squared deviations
            whichever is larger, `(dim,)`; 0 once the starts are forgotten.
    """

    mean: Floats
    sd: Floats
    mean_se: Floats
    log_sd_se: Floats
    memory: Floats


class Round(NamedTuple):
    """What each chain did in a round, so that changes can be told from differences of chains.

    Attributes:
        mean: mean of each chain, `(num_chains, dim + 1)`.
        square: mean squared deviation from the common mean, likewise.
    """

    mean: Floats
    square: Floats

    def since(self, earlier: Round) -> tuple[Floats, Floats]:
        """Changes of mean and log sd, in sds, and their standard errors, each `(2, dim)`.

        Paired by chain: what a chain remembers is no noise in its change.
        """
        num = len(self.mean)
        variance = np.maximum(self.square.mean(axis=0), 1e-300)
        moved = (self.mean - earlier.mean) / np.sqrt(variance)
        spread = 0.5 * (self.square - earlier.square) / variance
        both = np.stack([moved, spread])
        return np.abs(both.mean(axis=1)), both.std(axis=1) / np.sqrt(num)


def begin(kernel: Kernel, starts: Floats, modes: np.ndarray) -> Chains:
    """Chains at their starts; those where the density is not finite are dropped."""
    log_density, gradient = kernel(starts)
    good = np.isfinite(log_density) & np.isfinite(gradient).all(axis=1)
    starts = kernel.round(starts[good])
    nothing = np.zeros((0, *starts.shape))
    step = 0.9 * max(starts.shape[1], 1) ** -0.25
    return Chains(
        starts,
        modes[good],
        starts,
        log_density[good],
        gradient[good],
        nothing,
        nothing[:, :, 0],
        step,
        np.ones(len(starts)),
        0,
    )


def advance(
    kernel: Kernel,
    factor: Floats,
    chains: Chains,
    rng: np.random.Generator,
    iterations: int,
    adapt: bool,
) -> Chains:
    """A round of HMC iterations.

    Args:
        kernel: the compiled log density and gradient.
        factor: square root of the covariance that the momenta are scaled with, `(dim, dim)`, or
            standard deviations `(dim,)`.
        chains: from `begin` or an earlier round.
        rng: source of randomness.
        iterations: of the round.
        adapt: whether the step size follows the acceptance rate; the states are then not kept.
    """
    states, log_density, gradient = chains.states, chains.log_density, chains.gradient
    step, leaps, rates, kept, heights = chains.step, chains.leaps, [], [], []
    for _ in range(iterations):
        length = _LENGTH * rng.uniform(0.6, 1.4)
        # now and then small steps, which reach where large ones are always refused
        stride = step * (_SHORT if rng.random() < _SHORT_SHARE else 1.0)
        count = int(np.clip(round(length / stride), 1, _MAX_LEAPS))
        momentum = rng.standard_normal(states.shape)
        proposal, value, slope, energy = _trajectory(
            kernel, factor, states, log_density, gradient, momentum, stride, count
        )
        log_rate = np.where(np.isfinite(energy), np.minimum(energy, 0.0), -np.inf)
        taken = np.log(rng.random(len(states))) < log_rate
        states = np.where(taken[:, None], proposal, states)
        log_density = np.where(taken, value, log_density)
        gradient = np.where(taken[:, None], slope, gradient)
        rates.append(np.exp(log_rate))
        leaps += count
        if adapt:
            if stride == step:
                step = float(np.clip(step * np.exp(rates[-1].mean() - _ACCEPT), 0.01, 2.0))
        else:
            kept.append(states)
            heights.append(log_density)
    if kept:
        chains = chains._replace(
            kept=np.concatenate([chains.kept, np.stack(kept)]),
            heights=np.concatenate([chains.heights, np.stack(heights)]),
        )
    return chains._replace(
        states=states,
        log_density=log_density,
        gradient=gradient,
        step=step,
        accept=np.mean(rates, axis=0),
        leaps=leaps,
    )


def _trajectory(
    kernel: Kernel,
    factor: Floats,
    states: Floats,
    log_density: Floats,
    gradient: Floats,
    momentum: Floats,
    step: float,
    count: int,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Leapfrog in whitened coordinates; also the log acceptance ratio of the end."""
    value, slope = log_density, gradient
    points, speed = states, momentum + 0.5 * step * _pull(factor, slope)
    for i in range(count):
        points = points + step * _push(factor, speed)
        value, slope = kernel(points)
        speed = speed + (step if i < count - 1 else 0.5 * step) * _pull(factor, slope)
    energy = (value - log_density) - 0.5 * (np.sum(speed**2, 1) - np.sum(momentum**2, 1))
    return kernel.round(points), value, slope, energy


def _push(factor: Floats, momentum: Floats) -> Floats:
    return momentum * factor if factor.ndim == 1 else momentum @ factor.T


def _pull(factor: Floats, gradient: Floats) -> Floats:
    pulled = gradient * factor if factor.ndim == 1 else gradient @ factor
    return np.clip(np.nan_to_num(pulled), -_EXTREME, _EXTREME)


def moments(chains: Chains) -> Moments:
    """Moments of the kept states, pooled over chains and iterations."""
    kept = chains.kept  # (iterations, chains, dim)
    num = kept.shape[1]
    mean = kept.mean(axis=(0, 1))
    deviations = (kept - mean) ** 2
    variance = deviations.mean(axis=(0, 1))
    # chains were dealt out to the modes by their weights, which is no source of error
    mean_se = within(kept.mean(axis=0), chains.modes).std(axis=0) / np.sqrt(num)
    square_se = within(deviations.mean(axis=0), chains.modes).std(axis=0) / np.sqrt(num)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Moments(mean, np.sqrt(variance), mean_se, 0.5 * square_se / variance, memory(chains))


def last_round(chains: Chains, iterations: int) -> Round:
    """The last kept iterations, by chain; deviations are from their common mean.

    The log density comes last, as one more coordinate: chains that still find their way into
    what no coordinate shows change their height.
    """
    heights = chains.heights[-iterations:, :, None]
    kept = np.concatenate([chains.kept[-iterations:], heights], axis=2)
    center = kept.mean(axis=(0, 1))
    return Round(kept.mean(axis=0), ((kept - center) ** 2).mean(axis=0))


def memory(chains: Chains) -> Floats:
    """Correlation of the present states with the starts, by coordinate; see `Moments`."""
    start, end = within(chains.starts, chains.modes), within(chains.states, chains.modes)
    # ranks would hide a far tail that does not move; clipping keeps one chain from deciding alone
    linear = _correlation(_clipped(start), _clipped(end))
    spread = _correlation(_clipped(start) ** 2, _clipped(end) ** 2)
    return np.maximum(linear, spread)


def within(points: Floats, modes: np.ndarray) -> Floats:
    """Deviations from the mean of those that started in the same mode."""
    out = np.empty_like(points)
    for mode in np.unique(modes):
        members = modes == mode
        out[members] = points[members] - points[members].mean(axis=0)
    return out


def _clipped(points: Floats) -> Floats:
    middle = np.median(points, axis=0)
    scale = 1.4826 * np.median(np.abs(points - middle), axis=0)
    return np.clip((points - middle) / np.where(scale > 0, scale, 1.0), -4.0, 4.0)


def _correlation(one: Floats, other: Floats) -> Floats:
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    size = np.sqrt(np.sum(one**2, axis=0) * np.sum(other**2, axis=0))
    return np.abs(np.sum(one * other, axis=0)) / np.where(size > 0, size, 1.0)
