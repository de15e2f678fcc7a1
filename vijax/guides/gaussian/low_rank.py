"""A Gaussian with a low-rank plus diagonal covariance."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, cholesky

from vijax.contracts import Batch, Draw, GaussianGuide, NormalNoiseGuide, Position, Space
from vijax.guides.gaussian.normal import require_positive
from vijax.guides.gaussian.unravel import unravel
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

_LOG_2PI = math.log(2 * math.pi)
# At a factor of zero no draw moves with it and its gradient vanishes: a saddle. Rows of this
# length leave it, and change the standard deviations at the start by half a percent.
_START = 0.1


class LowRankParams(NamedTuple):
    """Covariance `S (I + F F') S` with `S = diag(exp(log_scale))`.

    `loc` and `log_scale` are `(dim,)`, `factor` is `F` `(dim, rank)`. Rows of `F` are in units of
    their own scale, so that one step size suits parameters of any magnitude.
    """

    loc: Array
    log_scale: Array
    factor: Array


@dataclasses.dataclass(frozen=True)
class LowRank(GaussianGuide, NormalNoiseGuide):
    """A Gaussian whose covariance is a diagonal plus a few directions.

    `q(z) = N(z; loc, S (I + F F') S)`: time and memory `dim * rank` per draw, so it holds the
    strongest correlations where a dense covariance does not fit. The density needs one Cholesky
    factorization of `C = I + F'F` `(rank, rank)`: `log |I + F F'| = log |C|`, and the quadratic
    form is `|e - F b|^2 + |b|^2` with `b = C^-1 F'e`, a sum of squares. (The usual Woodbury
    difference `|e|^2 - e'F C^-1 F'e` cancels in float32 once the factor is large.) Source:
    Gaussian Variational Approximation with a Factor Covariance Structure, Ong, Nott, Smith, 2018.

    Args:
        rank: number of directions. By default `ceil(sqrt(dim))`, at least 2 and at most 10: work
            per draw and the noise in the factor's gradient grow with every direction, and the
            leading ones matter most. Never more than `dim`.
        init_scale: standard deviation of every coordinate at the start (within half a percent).

    Raises:
        GuideError: an option is not positive.

    >>> LowRank(rank=3)
    LowRank(rank=3, init_scale=0.1)
    """

    rank: int | None = None
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        if self.rank is not None and self.rank < 1:
            raise GuideError(mismatch("rank", "at least 1, or None", self.rank))

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> LowRankParams:
        loc = space.ravel(location)
        rank = min(space.dim, self.rank or _default_rank(space.dim))
        factor = jax.random.normal(key, (loc.size, rank), loc.dtype) * (_START / math.sqrt(rank))
        return LowRankParams(loc, jnp.full_like(loc, math.log(self.init_scale)), factor)

    def num_normals(self, params: LowRankParams, space: Space) -> int:
        return sum(params.factor.shape)

    def draw(self, params: LowRankParams, space: Space, key: Array, batch: Batch) -> Draw:
        dim, rank = params.factor.shape
        noise = normals(key, (dim + rank,), params.loc.dtype)
        residual = noise[:dim] + params.factor @ noise[dim:]
        z = params.loc + jnp.exp(params.log_scale) * residual
        # from the residual, not from z - loc: no cancellation where loc is large
        return Draw(unravel(space, z), _log_normal(params, residual))

    def log_prob(self, params: LowRankParams, space: Space, z: Position, batch: Batch) -> Array:
        residual = (space.ravel(z) - params.loc) * jnp.exp(-params.log_scale)
        return _log_normal(params, residual)

    def entropy(self, params: LowRankParams, space: Space) -> Array:
        dim = params.loc.size
        return _log_det(params, _capacitance_factor(params)) + 0.5 * dim * (1 + _LOG_2PI)

    def mean(self, params: LowRankParams, space: Space) -> Array:
        return params.loc

    def covariance(self, params: LowRankParams, space: Space) -> Array:
        scaled = jnp.exp(params.log_scale)[:, None] * params.factor
        return jnp.diag(jnp.exp(2 * params.log_scale)) + scaled @ scaled.T


def _default_rank(dim: int) -> int:
    return min(10, max(2, math.ceil(math.sqrt(dim))))


def _capacitance_factor(params: LowRankParams) -> Array:
    """The lower Cholesky factor of `C = I + F'F` `(rank, rank)`."""
    rank = params.factor.shape[1]
    gram = params.factor.T @ params.factor
    return cholesky(gram + jnp.eye(rank, dtype=gram.dtype), lower=True)


def _log_det(params: LowRankParams, lower: Array) -> Array:
    """Half the log determinant of the covariance, by the matrix determinant lemma."""
    return jnp.sum(params.log_scale) + jnp.sum(jnp.log(jnp.diag(lower)))


def _log_normal(params: LowRankParams, residual: Array) -> Array:
    """Log density at `loc + S residual`."""
    lower = _capacitance_factor(params)
    b = cho_solve((lower, True), params.factor.T @ residual)
    square = jnp.sum((residual - params.factor @ b) ** 2) + jnp.sum(b**2)
    return -0.5 * square - _log_det(params, lower) - 0.5 * residual.size * _LOG_2PI
