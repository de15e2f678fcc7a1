"""A Gaussian Markov chain along the leading axis of its sites: for state-space models."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Batch, Draw, EntropyGuide, NormalNoiseGuide, Position, Space
from vijax.guides.gaussian.normal import require_positive
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

_LOG_2PI = math.log(2 * math.pi)


class MarkovParams(NamedTuple):
    """`x_t - loc_t = gain_t (x_(t-1) - loc_(t-1)) + L_t e_t` for `length` blocks of `width`.

    `L_t = diag(exp(log_scale_t)) (I + strict lower of lower_t)`. `loc` and `log_scale` are
    `(length, width)`, `lower` and `gain` `(length, width, width)`; the first `gain`, and `lower` on
    and above the diagonal, are never read.
    """

    loc: Array
    log_scale: Array
    lower: Array
    gain: Array


@dataclasses.dataclass(frozen=True)
class Markov(EntropyGuide, NormalNoiseGuide):
    """`q(x) = prod_t q(x_t | x_(t-1))`, each a linear Gaussian: a block-tridiagonal precision.

    The blocks are what the sites hold at one value of their leading axis, which must be equally
    long for all: the latent states of a `scan`. Time and memory are linear in its length, and the
    family holds the posterior of every linear-Gaussian state-space model exactly. Sites without
    that axis take a guide of their own, as in `{"x": Markov(), ...: "fullrank"}`. Sources: the
    structure is that of the Kalman smoother; Black Box Variational Inference for State Space
    Models, Archer, Park, Buesing, Cunningham, Paninski, 2015.

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
        loc = space.ravel(location)[order(space)]
        length, width = loc.shape
        zeros = jnp.zeros((length, width, width), loc.dtype)
        return MarkovParams(loc, jnp.full_like(loc, math.log(self.init_scale)), zeros, zeros)

    def draw(self, params: MarkovParams, space: Space, key: Array, batch: Batch) -> Draw:
        noise = normals(key, params.loc.shape, params.loc.dtype)
        shocks = jnp.einsum("tij,tj->ti", _factors(params), noise)

        def step(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            gain, shock = now
            after = gain @ before + shock
            return after, after

        start = jnp.zeros_like(params.loc[0])
        gains = params.gain.at[0].set(0.0)
        _, away = lax.scan(step, start, (gains, shocks))
        stacked = params.loc + away
        vector = stacked.reshape(-1)[np.argsort(order(space).reshape(-1))]
        return Draw(space.unravel(vector), _log_normal(noise, params.log_scale))

    def log_prob(self, params: MarkovParams, space: Space, z: Position, batch: Batch) -> Array:
        away = space.ravel(z)[order(space)] - params.loc
        expected = jnp.einsum("tij,tj->ti", params.gain[1:], away[:-1])
        shocks = jnp.concatenate([away[:1], away[1:] - expected])
        solve = jax.vmap(lambda lower, shock: solve_triangular(lower, shock, lower=True))
        return _log_normal(solve(_factors(params), shocks), params.log_scale)

    def entropy(self, params: MarkovParams, space: Space) -> Array:
        return jnp.sum(params.log_scale) + 0.5 * params.log_scale.size * (1 + _LOG_2PI)


def order(space: Space) -> np.ndarray:
    """Where the coordinates of each block stand in the raveled space, `(length, width)`.

    Raises:
        GuideError: a site has no leading axis, or one of another length.
    """
    lengths = {site.name: site.z_shape[0] if site.z_shape else 0 for site in space.sites}
    length = next(iter(lengths.values()))
    for name, other in lengths.items():
        if other != length or not other:
            expected = f"a leading axis of length {length}" if length else "a leading axis"
            raise GuideError(mismatch(f"Markov site {name!r}", expected, f"length {other}"))
    starts = np.cumsum([0, *(site.size for site in space.sites)])[:-1]
    columns = [
        start + np.arange(site.size).reshape(length, -1)
        for start, site in zip(starts, space.sites, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def _factors(params: MarkovParams) -> Array:
    """`L_t`, `(length, width, width)`."""
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.loc.shape[1], dtype=params.loc.dtype)
    return jnp.exp(params.log_scale)[:, :, None] * unit


def _log_normal(noise: Array, log_scale: Array) -> Array:
    return -0.5 * jnp.sum(noise**2) - jnp.sum(log_scale) - 0.5 * noise.size * _LOG_2PI
