"""The full-rank Gaussian guide: a dense covariance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Batch, Draw, GaussianGuide, HostDraws, NormalNoiseGuide, Position, Space
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import (
    LOG_2PI,
    gaussian_entropy,
    gaussian_log_prob,
)
from vijax.runtime.keys import normals


class FullRankParams(NamedTuple):
    """`loc` `(dim,)` and the Cholesky factor `L = diag(exp(log_scale)) (I + strict lower)`.

    Rows of `lower` are in units of their scale, so that one step size suits parameters of any
    magnitude. Entries of `lower` on and above the diagonal are ignored.
    """

    loc: Array
    log_scale: Array
    lower: Array


@dataclasses.dataclass(frozen=True)
class DenseGaussian(GaussianGuide, NormalNoiseGuide):
    """The family `N(loc, L L')`, base class of `FullRank`.

    Args:
        init_scale: standard deviation of every coordinate at the start.
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> FullRankParams:
        return self._init_at(space.ravel(location), jnp)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> FullRankParams:
        return self._init_at(space.host_ravel(location), np)

    def _init_at(self, loc: Any, xp: Any) -> FullRankParams:
        log_scale = xp.full_like(loc, math.log(self.init_scale))
        return FullRankParams(loc, log_scale, xp.zeros((loc.size, loc.size), loc.dtype))

    def draw(self, params: FullRankParams, space: Space, key: Array, batch: Batch) -> Draw:
        noise = normals(key, params.loc.shape, params.loc.dtype)
        z = params.loc + cholesky_factor(params) @ noise
        return Draw(space.unravel(z), gaussian_log_prob(noise, params.log_scale))

    def log_prob(self, params: FullRankParams, space: Space, z: Position, batch: Batch) -> Array:
        residual = space.ravel(z) - params.loc
        noise = solve_triangular(cholesky_factor(params), residual, lower=True)
        return gaussian_log_prob(noise, params.log_scale)

    def entropy(self, params: FullRankParams, space: Space) -> Array:
        return gaussian_entropy(params.log_scale)

    def host_draws(
        self, params: FullRankParams, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws:
        loc, log_scale, factor = host_factors(params)
        noise = rng.standard_normal((num_draws, loc.size))
        return HostDraws(loc + noise @ factor.T, _host_log_prob(noise, log_scale))

    def host_log_prob(self, params: FullRankParams, space: Space, points: np.ndarray) -> np.ndarray:
        loc, log_scale, factor = host_factors(params)
        return _host_log_prob(np.linalg.solve(factor, (points - loc).T).T, log_scale)

    def mean(self, params: FullRankParams, space: Space) -> Array:
        return params.loc

    def covariance(self, params: FullRankParams, space: Space) -> Array:
        factor = cholesky_factor(params)
        return factor @ factor.T


@dataclasses.dataclass(frozen=True)
class FullRank(DenseGaussian):
    """Full-rank Gaussian: `q(z) = N(z; loc, L L')` over all unconstrained coordinates.

    Exact for Gaussian targets. Memory is `dim^2`, so it is meant for dimensions up to about a
    thousand. Source: Automatic Differentiation Variational Inference, Kucukelbir et al., 2017.

    Args:
        init_scale: standard deviation of every coordinate at the start.
    """


def cholesky_factor(params: FullRankParams) -> Array:
    """The lower Cholesky factor `L` `(dim, dim)` of the covariance."""
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.loc.size, dtype=params.loc.dtype)
    return jnp.exp(params.log_scale)[:, None] * unit


def host_factors(params: FullRankParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`loc`, `log_scale` and the Cholesky factor as float64 NumPy arrays."""
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return loc, log_scale, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size))


def _host_log_prob(noise: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    return -0.5 * np.sum(noise**2, axis=1) - log_scale.sum() - 0.5 * noise.shape[1] * LOG_2PI
