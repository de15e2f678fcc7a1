"""The Markov guide: a Gaussian Markov chain, for state-space models."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Batch, Draw, EntropyGuide, NormalNoiseGuide, Position, Site, Space
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import gaussian_entropy, gaussian_log_prob
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals


class MarkovParams(NamedTuple):
    """`x_t - loc_t = gain_t (x_(t-1) - loc_(t-1)) + L_t e_t` for `length` blocks of `width`.

    `L_t = diag(exp(log_scale_t)) (I + strict lower of lower_t)`. `loc` and `log_scale` are
    `(length, width)`, `lower` and `gain` `(length, width, width)`. The first `gain`, and `lower` on
    and above the diagonal, are ignored.
    """

    loc: Array
    log_scale: Array
    lower: Array
    gain: Array


@dataclasses.dataclass(frozen=True)
class Markov(EntropyGuide, NormalNoiseGuide):
    """Gaussian Markov chain: `q(x) = prod_t q(x_t | x_(t-1))`, each factor linear Gaussian.

    `x_t` is the block of all sites' values at index `t` of their leading axis, which must have the
    same length for all sites: the latent states of a `scan`. The precision is block-tridiagonal;
    time and memory are linear in the length. The family contains the posterior of every
    linear-Gaussian state-space model. As the guide of all sites it is that of the sites of a
    `scan`, and the others are jointly full-rank; by group, write `{"x": Markov(), ...: "fullrank"}`
    with any other guide for the rest. Sources: the structure is that of the Kalman smoother; Black
    Box Variational Inference for State Space Models, Archer, Park, Buesing, Cunningham, Paninski,
    2015.

    Args:
        init_scale: standard deviation of every coordinate at the start.

    >>> Markov()
    Markov(init_scale=0.1)
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> MarkovParams:
        loc = space.ravel(location)[block_indices(space)]
        length, width = loc.shape
        zeros = jnp.zeros((length, width, width), loc.dtype)
        return MarkovParams(loc, jnp.full_like(loc, math.log(self.init_scale)), zeros, zeros)

    def draw(self, params: MarkovParams, space: Space, key: Array, batch: Batch) -> Draw:
        noise = normals(key, params.loc.shape, params.loc.dtype)
        shocks = jnp.einsum("tij,tj->ti", _factors(params), noise)

        def step(previous: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gain, shock = inputs
            current = gain @ previous + shock
            return current, current

        start = jnp.zeros_like(params.loc[0])
        gains = params.gain.at[0].set(0.0)
        _, deviations = lax.scan(step, start, (gains, shocks))
        stacked = params.loc + deviations
        vector = stacked.reshape(-1)[np.argsort(block_indices(space).reshape(-1))]
        return Draw(space.unravel(vector), gaussian_log_prob(noise, params.log_scale))

    def log_prob(self, params: MarkovParams, space: Space, z: Position, batch: Batch) -> Array:
        deviations = space.ravel(z)[block_indices(space)] - params.loc
        expected = jnp.einsum("tij,tj->ti", params.gain[1:], deviations[:-1])
        shocks = jnp.concatenate([deviations[:1], deviations[1:] - expected])
        solve = jax.vmap(lambda lower, shock: solve_triangular(lower, shock, lower=True))
        return gaussian_log_prob(solve(_factors(params), shocks), params.log_scale)

    def entropy(self, params: MarkovParams, space: Space) -> Array:
        return gaussian_entropy(params.log_scale)


def chain_sites(space: Space) -> tuple[str, ...]:
    """The sites that have one leading axis of steps in common: those of the largest `scan`.

    Plates are not steps: their rows are conditionally independent.

    Raises:
        GuideError: no site has an axis of steps.
    """
    sizes: dict[int, int] = {}
    for site in space.sites:
        if _steps(site):
            sizes[_steps(site)] = sizes.get(_steps(site), 0) + site.size
    if not sizes:
        shapes = {site.name: site.shape for site in space.sites}
        expected = "sites with a leading axis of steps, as in a scan"
        raise GuideError(mismatch("Markov", expected, f"{shapes}", "Use guide='fullrank'."))
    length = max(sizes, key=lambda length: (sizes[length], length))
    return tuple(site.name for site in space.sites if _steps(site) == length)


def _steps(site: Site) -> int:
    """Length of a site's leading axis, 0 if it has none or that of a plate."""
    if not site.z_shape or site.z_shape[0] < 2:
        return 0
    first = -(len(site.shape) - site.event_dim)  # of the batch
    return 0 if any(plate.dim == first for plate in site.plates) else site.z_shape[0]


def is_chain(space: Space) -> bool:
    """Whether all sites have a leading axis of the same length."""
    return all(site.z_shape for site in space.sites) and (
        len({site.z_shape[0] for site in space.sites}) == 1
    )


def block_indices(space: Space) -> np.ndarray:
    """The indices of each block's coordinates in the raveled space, `(length, width)`.

    Raises:
        GuideError: a site has no leading axis, or one of another length.
    """
    lengths = {site.name: site.z_shape[0] if site.z_shape else 0 for site in space.sites}
    length = next(iter(lengths.values()))
    for name, other in lengths.items():
        if other != length or not other:
            expected = f"a leading axis of length {length}" if length else "a leading axis"
            chain = chain_sites(space)
            key = chain[0] if len(chain) == 1 else chain
            remedy = f"Assign it to the sites of the scan: {{{key!r}: 'markov', ...: 'fullrank'}}."
            raise GuideError(mismatch(f"Markov site {name!r}", expected, f"length {other}", remedy))
    starts = np.cumsum([0, *(site.size for site in space.sites)])[:-1]
    columns = [
        start + np.arange(site.size).reshape(length, -1)
        for start, site in zip(starts, space.sites, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def _factors(params: MarkovParams) -> Array:
    """The Cholesky factors `L_t`, `(length, width, width)`."""
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.loc.shape[1], dtype=params.loc.dtype)
    return jnp.exp(params.log_scale)[:, :, None] * unit
