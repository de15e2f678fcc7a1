"""Draws from a guide with both log densities: ELBO, importance weights, Pareto smoothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Blocks, Data, Guide, PyTree, Space, Target, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import psis
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import draw_keys, fold_in, host_rng
from vijax.runtime.stacks import Packed, pack

_BLOCK_ELEMENTS = 2**24  # draws evaluated at once, times array elements of the model's data
_MAX_BLOCK = 256
_UNSEEN_MASS = 0.002  # share of the mass in modes that a search for modes does not see
LIGHT_TAIL = 0.05  # share of the tail below which its shape does not matter
_MIN_ESS = 5.0
_EQUAL_ESS = 0.995  # effective share of the draws from which weights count as equal
_LARGE_KHAT = 0.5  # from which the weights have no variance
_HOST_DIM = 1000  # largest dimension in which drawing on the host is cheap


PlateAxes = Mapping[str, tuple[tuple[str, int], ...]]


class Draws(NamedTuple):
    """Draws from a guide, host arrays with a leading axis of draws.

    Attributes:
        z: unconstrained draws by site.
        log_p: log density of the target, `(num_draws,)`.
        log_q: log density of the guide, `(num_draws,)`.
        labels: mixture components, `(num_draws,)`; `None` for other guides.
        noise: standard normals that a `TransportGuide` transformed, `(num_draws, dim)`.
    """

    z: dict[str, np.ndarray]
    log_p: np.ndarray
    log_q: np.ndarray
    labels: np.ndarray | None = None
    noise: np.ndarray | None = None

    @property
    def log_weights(self) -> np.ndarray:
        """`log p - log q`, `(num_draws,)`, with `-inf` where the model is not finite."""
        log_w = self.log_p.astype(np.float64) - self.log_q
        return np.where(np.isnan(log_w) | (log_w == np.inf), -np.inf, log_w)


class Importance(NamedTuple):
    """Importance sampling with the guide as proposal.

    Attributes:
        log_weights: Pareto-smoothed, normalized to sum to one, `(num_draws,)`.
        khat: Pareto shape of the largest weights; reliable below about 0.7; 0 where weights are
            equal, whose tail has no shape.
        ess: effective number of draws, `1 / sum(w^2)`.
        tail_share: sum of the excesses of the largest weights over the smallest of them, as a
            share of the total weight; where it is negligible a large k-hat is a false alarm (the
            largest weights may be nearly equal, with spacings that resemble a heavy tail).
        log_evidence: log mean weight in nats, the estimate of the log marginal likelihood; by
            bridge sampling where states of chains replace the draws of a Gaussian or a mixture;
            exact where all values of discrete sites were enumerated.
        log_evidence_se: its standard error, by the delta method; at least the rounding error of
            the log density and the mass of modes too small to be found; with the share of the tail
            if its variance is infinite; infinite if `khat` shows that the weights are unreliable.
        method: how the log evidence was found.
    """

    log_weights: np.ndarray
    khat: float
    ess: float
    tail_share: float
    log_evidence: float
    log_evidence_se: float
    method: Literal["importance", "bridge", "enumeration"] = "importance"


def block_size(batch: Data, dim: int, plate_axes: PlateAxes | None = None) -> int:
    """Number of draws to evaluate at once, so that memory is bounded; see `num_elements`."""
    return max(1, min(_MAX_BLOCK, _BLOCK_ELEMENTS // num_elements(batch, dim, plate_axes)))


def num_elements(batch: Data, dim: int, plate_axes: PlateAxes | None = None) -> int:
    """Array elements that one evaluation of the model reads: all data and one position.

    Args:
        batch: the data.
        dim: of a position.
        plate_axes: by array, the `(plate, axis)` pairs along which it is subsampled: only the rows
            of the batch are counted.
    """
    if isinstance(batch, Blocks):
        return dim + batch.num_elements
    total = dim + sum(math.prod(value.shape) for value in batch.fetched.values())
    for name, value in batch.data.items():
        shape = list(value.shape)
        for plate, axis in (plate_axes or {}).get(name, ()):
            shape[axis] = len(batch.index.get(plate, range(shape[axis])))
        total += math.prod(shape)
    return total


def draw(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Data,
    num_draws: int,
) -> Draws:
    """Draws from the guide with both log densities, by one compiled program for any number.

    Args:
        target: the target.
        guide: the guide.
        variables: its parameters and the model's.
        mutable: the model's mutable state.
        key: random key.
        batch: the data; blocks of rows are read once for all draws.
        num_draws: number of draws.
    """
    kernel = Kernel(target, batch, variables.model, mutable)
    # a stochastic bound is a function of a key, of which each draw has its own
    small = target.space.dim <= _HOST_DIM and not target.structure.bounds
    if small:
        host = guide.host_draws(variables.guide, target.space, host_rng(key), num_draws)
        if host is not None:
            log_p = kernel.log_density(host.points)
            z = split(target.space, host.points)
            return Draws(z, log_p, host.log_q, host.labels, host.noise)
    part = batch.batch if isinstance(batch, Blocks) else batch
    # with much data, densities are evaluated separately, in smaller blocks that fit into a cache
    separately = small and not target.space.discrete.sites and kernel.is_costly(num_draws)
    at_once = part is batch and not separately
    # callers with many batches ask for one draw of each, and a block would evaluate hundreds
    block = 1 if num_draws == 1 else block_size(part, target.footprint, target.subsampling.axes)
    program = target.program(_draw_block, guide, block, at_once)
    parts = [
        on_host(program(variables, mutable, fold_in(key, i), part))
        for i in range(math.ceil(num_draws / block))
    ]
    z, *log_densities = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_draws], *parts)
    draws = Draws(z.unpack(), *log_densities)
    if at_once:
        return draws
    return draws._replace(log_p=kernel.log_density(flatten(target.space, draws.z)))


def split(space: Space, points: np.ndarray) -> dict[str, np.ndarray]:
    """Points `(num_draws, dim)` by site, in the device's precision; the inverse of `flatten`."""
    ends = list(itertools.accumulate(site.size for site in space.sites))[:-1]
    parts = np.split(points.astype(np.dtype(jnp.result_type(float))), ends, axis=1)
    return {
        site.name: part.reshape(len(points), *site.z_shape)
        for site, part in zip(space.sites, parts, strict=True)
    }


def flatten(space: Space, z: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws by site as one array `(num_draws, dim)` in float64, sites in the space's order."""
    parts = [np.reshape(z[name], (len(z[name]), -1)) for name in space.names]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _draw_block(
    target: Target,
    guide: Guide,
    block: int,
    with_log_p: bool,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
) -> tuple[Packed, Array, Array]:
    def one(key: Array) -> tuple[Packed, Array, Array]:
        z, log_q = guide.draw(variables.guide, target.space, key, batch)
        if not with_log_p:
            return pack(z), jnp.zeros(()), log_q
        own = batch._replace(key=fold_in(key, 1)) if target.structure.bounds else batch
        log_p = target.evaluate(z, own, variables.model, mutable).log_density
        return pack(z), log_p, log_q

    return jax.vmap(one)(draw_keys(key, block, target.space.dim))


def elbo(log_weights: np.ndarray) -> tuple[float, float]:
    """The ELBO in nats and its standard error, from `log p - log q` of independent draws."""
    if not np.all(np.isfinite(log_weights)):
        return -math.inf, math.inf
    return float(log_weights.mean()), float(log_weights.std(ddof=1) / math.sqrt(log_weights.size))


def importance(log_weights: np.ndarray) -> Importance:
    """Pareto-smoothed importance sampling; draws with a non-finite density have weight zero.

    Args:
        log_weights: `log p - log q` of independent draws, `(num_draws,)`.
    """
    n = log_weights.size
    finite = np.isfinite(log_weights)
    if finite.sum() < 5:  # nothing to smooth
        return Importance(np.full(n, -math.log(n)), math.inf, 0.0, 1.0, -math.inf, math.inf)
    floor = log_weights[finite].min() - 700.0  # smoothing needs finite values; exp(-700) is zero
    smoothed, khat = psis.smooth(np.where(finite, log_weights, floor))
    peak = log_weights.max()
    weights = np.exp(log_weights - peak)
    mean = weights.mean()
    relative_se = float(weights.std(ddof=1) / mean / math.sqrt(n))
    normalized = smoothed - _logsumexp(smoothed)
    ess = float(1 / np.sum(np.exp(2 * normalized)))
    if not ess > _MIN_ESS:  # one draw carries all the weight: no tail to fit
        normalized, khat = log_weights - peak - math.log(weights.sum()), math.inf
        ess = float(1 / np.sum(np.exp(2 * normalized)))
    tail_share, log_evidence = _tail_share(weights), float(peak + math.log(mean))
    se = at_least(relative_se, log_evidence)
    if khat >= khat_threshold(n) and tail_share > LIGHT_TAIL:
        se = math.inf
    elif khat > _LARGE_KHAT:  # infinite variance: the sample variance misses part of the tail
        se = math.hypot(se, tail_share)
    if khat > _LARGE_KHAT and ess > _EQUAL_ESS * n:
        khat = 0.0
    return Importance(
        log_weights=normalized,
        khat=khat,
        ess=ess,
        tail_share=tail_share,
        log_evidence=log_evidence,
        log_evidence_se=se,
    )


def at_least(se: float, log_evidence: float) -> float:
    """A standard error with the rounding of the log density, and with modes too small to find."""
    eps = np.finfo(jax.dtypes.canonicalize_dtype(float)).eps
    return math.hypot(se, _UNSEEN_MASS, eps * log_evidence)


def describe_khat(khat: float) -> str:
    """k-hat in words: it is exactly 0 only where weights are equal."""
    return "equal weights" if khat == 0 else f"k-hat {khat:.2f}"


def _tail_share(weights: np.ndarray) -> float:
    """Summed excess of the largest weights over the smallest of them, as a share of the total."""
    tail = np.sort(weights)[-psis.tail_size(weights.size) :]
    return float((tail - tail[0]).sum() / weights.sum())


def khat_threshold(num_draws: int) -> float:
    """`min(1 - 1 / log10(S), 0.7)`, the largest k-hat at which `S` draws are reliable."""
    return min(1 - 1 / math.log10(max(num_draws, 11)), 0.7)


def _logsumexp(values: np.ndarray) -> float:
    peak = values.max()
    return float(peak + math.log(np.exp(values - peak).sum()))


def gain(new: np.ndarray, old: np.ndarray) -> tuple[float, float]:
    """Gain in ELBO from paired log weights and its standard error.

    Where some are not finite, infinite in favor of the one with more finite ones.
    """
    difference = new - old
    if not np.all(np.isfinite(difference)):
        return (np.inf if np.isfinite(new).sum() > np.isfinite(old).sum() else -np.inf), 0.0
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(difference.size))
