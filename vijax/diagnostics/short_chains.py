"""Many short Hamiltonian Monte Carlo chains started at a guide's draws.

The chains move in coordinates whitened by the guide, where an accurate guide leaves a target close
to a standard normal: a trajectory of length about pi/2 then forgets its start at once. How much of
the start remains is measured: if a coordinate of all chains still has correlation `r` with its
initial values, about `r / (1 - r)` of the change so far is still to come. Sources: Targeted
Accuracy Diagnostics for Variational Approximations, Wang, Kasprzak, Huggins, 2023 (short chains as
a check); Following Markov chains from variational draws, Hoffman, Ma, 2020; Nested R-hat: assessing
the convergence of Markov chain Monte Carlo when running many short chains, Margossian et al., 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.progress import advance as advance_stage
from vijax.runtime.progress import expect

_ACCEPT_RATE = 0.8  # target acceptance rate
_LENGTH = np.pi / 2  # of a trajectory, in standard deviations: a quarter period for a Gaussian
_MAX_LEAPFROG = 24
_SHORT_STEP, _SHORT_STEP_SHARE = 1 / 3, 0.2
EXTREME = 1e3  # whitened gradients are clipped to this: outside the bulk only directions matter
_MAX_CROSSED = 0.02  # share of chains in another mode up to which modes are separate


class ChainState(NamedTuple):
    """State and history of the chains.

    Attributes:
        starts: initial states, `(num_chains, dim)`.
        modes: mode in which each chain started, `(num_chains,)`; chains need not mix between modes.
        states: current states, `(num_chains, dim)`.
        log_density: at the states, `(num_chains,)`.
        gradient: at the states, `(num_chains, dim)`.
        samples: states after every iteration kept so far, `(num, num_chains, dim)`.
        sample_log_density: log densities of the samples, `(num, num_chains)`.
        step_size: leapfrog step size, in standard deviations.
        accept_rate: acceptance rates of the last window, `(num_chains,)`.
        num_gradients: gradient evaluations per chain so far.
    """

    starts: Floats
    modes: np.ndarray
    states: Floats
    log_density: Floats
    gradient: Floats
    samples: Floats
    sample_log_density: Floats
    step_size: float
    accept_rate: Floats
    num_gradients: int


class Moments(NamedTuple):
    """Posterior moments estimated from the chains, by coordinate.

    Attributes:
        mean: `(dim,)`.
        sd: `(dim,)`.
        mean_se: standard error of `mean`, from the variation between chains.
        log_sd_se: standard error of `log sd` likewise.
        start_correlation: correlation of the states with the starts, the larger of that of values
            and that of squared deviations, `(dim,)`; 0 once the starts are forgotten.
    """

    mean: Floats
    sd: Floats
    mean_se: Floats
    log_sd_se: Floats
    start_correlation: Floats


class WindowMoments(NamedTuple):
    """Moments of each chain over a window of iterations, to separate drift from noise.

    Attributes:
        mean: mean of each chain, `(num_chains, dim + 1)`; the log density is the last coordinate.
        square: mean squared deviation from the common mean, likewise.
    """

    mean: Floats
    square: Floats

    def change_since(self, earlier: WindowMoments) -> tuple[Floats, Floats]:
        """Changes of mean and log sd, in sds, and their standard errors, each `(2, dim + 1)`.

        Differences are paired by chain: persistent differences between chains cancel.
        """
        num = len(self.mean)
        variance = np.maximum(self.square.mean(axis=0), 1e-300)
        mean_change = (self.mean - earlier.mean) / np.sqrt(variance)
        log_sd_change = 0.5 * (self.square - earlier.square) / variance
        both = np.stack([mean_change, log_sd_change])
        return np.abs(both.mean(axis=1)), both.std(axis=1) / np.sqrt(num)


def initialize(kernel: Kernel, starts: Floats, modes: np.ndarray) -> ChainState:
    """Chains at their starts; those with a non-finite density or gradient are dropped.

    Args:
        kernel: the compiled log density and gradient.
        starts: `(num_chains, dim)`.
        modes: the mode of each start, `(num_chains,)`.
    """
    log_density, gradient = kernel(starts)
    finite = np.isfinite(log_density) & np.isfinite(gradient).all(axis=1)
    starts = kernel.round(starts[finite])
    no_samples = np.zeros((0, *starts.shape))
    step_size = 0.9 * max(starts.shape[1], 1) ** -0.25
    return ChainState(
        starts,
        modes[finite],
        starts,
        log_density[finite],
        gradient[finite],
        no_samples,
        no_samples[:, :, 0],
        step_size,
        np.ones(len(starts)),
        0,
    )


def advance(
    kernel: Kernel,
    factor: Floats,
    chains: ChainState,
    rng: np.random.Generator,
    iterations: int,
    adapt: bool,
) -> ChainState:
    """Runs a window of HMC iterations.

    Args:
        kernel: the compiled log density and gradient.
        factor: square root of the covariance that whitens the coordinates, `(dim, dim)`, or
            standard deviations `(dim,)`.
        chains: from `initialize` or an earlier window.
        rng: source of randomness.
        iterations: of the window.
        adapt: whether to adapt the step size to the acceptance rate; states are then not kept.
    """
    states, log_density, gradient = chains.states, chains.log_density, chains.gradient
    step_size, num_gradients = chains.step_size, chains.num_gradients
    rates, samples, sample_log_density = [], [], []
    expect(iterations, "iteration")
    for _ in range(iterations):
        size, count = trajectory_steps(rng, step_size)
        momentum = rng.standard_normal(states.shape)
        proposal, value, slope, log_ratio = _trajectory(
            kernel, factor, states, log_density, gradient, momentum, size, count
        )
        log_rate = np.where(np.isfinite(log_ratio), np.minimum(log_ratio, 0.0), -np.inf)
        accepted = np.log(rng.random(len(states))) < log_rate
        states = np.where(accepted[:, None], proposal, states)
        log_density = np.where(accepted, value, log_density)
        gradient = np.where(accepted[:, None], slope, gradient)
        rates.append(np.exp(log_rate))
        num_gradients += count
        advance_stage(1, "iteration")
        if adapt:
            if size == step_size:
                step_size = float(adapted_step(step_size, rates[-1].mean()))
        else:
            samples.append(states)
            sample_log_density.append(log_density)
    if samples:
        chains = chains._replace(
            samples=np.concatenate([chains.samples, np.stack(samples)]),
            sample_log_density=np.concatenate(
                [chains.sample_log_density, np.stack(sample_log_density)]
            ),
        )
    return chains._replace(
        states=states,
        log_density=log_density,
        gradient=gradient,
        step_size=step_size,
        accept_rate=np.mean(rates, axis=0),
        num_gradients=num_gradients,
    )


def trajectory_steps(rng: np.random.Generator, step_size: float) -> tuple[float, int]:
    """Step size and number of steps of a trajectory of random length."""
    length = _LENGTH * rng.uniform(0.6, 1.4)
    # occasional small steps reach regions where large ones are always rejected
    size = step_size * (_SHORT_STEP if rng.random() < _SHORT_STEP_SHARE else 1.0)
    return size, int(np.clip(round(length / size), 1, _MAX_LEAPFROG))


def adapted_step(step_size: Floats | float, rate: Floats) -> Floats:
    """The step size after a trajectory with this mean acceptance rate."""
    return np.clip(step_size * np.exp(rate - _ACCEPT_RATE), 0.01, 2.0)


def _trajectory(
    kernel: Kernel,
    factor: Floats,
    states: Floats,
    log_density: Floats,
    gradient: Floats,
    momentum: Floats,
    step_size: float,
    count: int,
) -> tuple[Floats, Floats, Floats, Floats]:
    """`count` leapfrog steps in whitened coordinates: end points and log acceptance ratios."""
    value, slope = log_density, gradient
    points, speed = states, momentum + 0.5 * step_size * _whitened_gradient(factor, slope)
    for i in range(count):
        points = points + step_size * _velocity(factor, speed)
        value, slope = kernel(points)
        kick = step_size if i < count - 1 else 0.5 * step_size
        speed = speed + kick * _whitened_gradient(factor, slope)
    log_ratio = (value - log_density) - 0.5 * (np.sum(speed**2, 1) - np.sum(momentum**2, 1))
    return kernel.round(points), value, slope, log_ratio


def _velocity(factor: Floats, momentum: Floats) -> Floats:
    """Whitened momenta in the coordinates of the target."""
    return momentum * factor if factor.ndim == 1 else momentum @ factor.T


def _whitened_gradient(factor: Floats, gradient: Floats) -> Floats:
    return clipped_gradient(gradient * factor if factor.ndim == 1 else gradient @ factor)


def clipped_gradient(whitened: Floats) -> Floats:
    """A whitened gradient within bounds: outside the bulk only directions matter."""
    clipped = np.clip(whitened, -EXTREME, EXTREME)
    missing = np.isnan(clipped)
    return np.where(missing, 0.0, clipped) if missing.any() else clipped


def moments(chains: ChainState) -> Moments:
    """Moments of the samples, pooled over chains and iterations."""
    samples = chains.samples  # (iterations, chains, dim)
    num = samples.shape[1]
    mean = samples.mean(axis=(0, 1))
    deviations = (samples - mean) ** 2
    variance = deviations.mean(axis=(0, 1))
    # modes have fixed shares of the chains, in proportion to their weights: no source of error
    mean_se = center_by_mode(samples.mean(axis=0), chains.modes).std(axis=0) / np.sqrt(num)
    square_se = center_by_mode(deviations.mean(axis=0), chains.modes).std(axis=0) / np.sqrt(num)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_sd_se = 0.5 * square_se / variance
        return Moments(mean, np.sqrt(variance), mean_se, log_sd_se, start_correlation(chains))


def window_moments(chains: ChainState, iterations: int) -> WindowMoments:
    """Moments of each chain over the last iterations; deviations are from their common mean.

    The log density is appended as another coordinate: it still drifts when chains approach the
    typical set in directions that no single coordinate shows.
    """
    log_density = chains.sample_log_density[-iterations:, :, None]
    samples = np.concatenate([chains.samples[-iterations:], log_density], axis=2)
    center = samples.mean(axis=(0, 1))
    return WindowMoments(samples.mean(axis=0), ((samples - center) ** 2).mean(axis=0))


def start_correlation(chains: ChainState) -> Floats:
    """Correlation of the current states with the starts, by coordinate; see `Moments`."""
    start = center_by_mode(chains.starts, chains.modes)
    end = center_by_mode(chains.states, chains.modes)
    # ranks would hide a far tail that does not move; clipping limits the influence of one chain
    start, end = _clipped(start), _clipped(end)
    return np.maximum(_correlation(start, end), _correlation(start**2, end**2))


def join_modes(chains: ChainState) -> ChainState:
    """The chains with one mode instead of several, if some crossed from one to another.

    Chains need not mix between separate modes, whose shares are those of the starts. Where they
    cross, these shares change until the chains have forgotten in which mode they started.
    """
    if not np.any(chains.modes != chains.modes[0]):
        return chains
    crossed = _nearest_mode(chains, chains.states) != _nearest_mode(chains, chains.starts)
    if np.mean(crossed) <= _MAX_CROSSED:
        return chains
    return chains._replace(modes=np.zeros_like(chains.modes))


def _nearest_mode(chains: ChainState, points: Floats) -> np.ndarray:
    """The mode of highest density at each point, by normals with the moments of its starts."""
    floor = 1e-3 * chains.starts.std(axis=0) + np.finfo(float).tiny
    log_density = []
    for mode in np.unique(chains.modes):
        members = chains.starts[chains.modes == mode]
        sd = np.maximum(members.std(axis=0), floor)
        scaled = (points - members.mean(axis=0)) / sd
        log_density.append(-0.5 * np.sum(scaled**2, axis=1) - np.sum(np.log(sd)))
    return np.argmax(log_density, axis=0)


def center_by_mode(points: Floats, modes: np.ndarray) -> Floats:
    """Deviations of points `(num, dim)` from the mean of those in the same mode."""
    out = np.empty_like(points)
    for mode in np.unique(modes):
        members = modes == mode
        out[members] = points[members] - points[members].mean(axis=0)
    return out


def _clipped(points: Floats) -> Floats:
    """Points standardized by median and median absolute deviation, clipped to four sds."""
    middle = np.median(points, axis=0)
    scale = 1.4826 * np.median(np.abs(points - middle), axis=0)
    return np.clip((points - middle) / np.where(scale > 0, scale, 1.0), -4.0, 4.0)


def _correlation(one: Floats, other: Floats) -> Floats:
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    size = np.sqrt(np.sum(one**2, axis=0) * np.sum(other**2, axis=0))
    return np.abs(np.sum(one * other, axis=0)) / np.where(size > 0, size, 1.0)
