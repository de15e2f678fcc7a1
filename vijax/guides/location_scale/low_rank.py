"""The low-rank Gaussian guide: a covariance of low rank plus a diagonal."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, cholesky

from vijax.contracts import Batch, Draw, GaussianGuide, NormalNoiseGuide, Position, Space
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import LOG_2PI
from vijax.guides.location_scale.unravel import unravel
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

# A factor of zero is a saddle point: its gradient vanishes. Rows of this length avoid it and change
# the initial standard deviations by half a percent.
_INIT_ROW_NORM = 0.1


class LowRankParams(NamedTuple):
    """Covariance `S (I + F F') S` with `S = diag(exp(log_scale))`.

    `loc` and `log_scale` are `(dim,)`, `factor` is `F` `(dim, rank)`. Rows of `F` are in units of
    their scale, so that one step size suits parameters of any magnitude.
    """

    loc: Array
    log_scale: Array
    factor: Array


@dataclasses.dataclass(frozen=True)
class LowRank(GaussianGuide, NormalNoiseGuide):
    """Low-rank plus diagonal Gaussian: `q(z) = N(z; loc, S (I + F F') S)`.

    Time and memory are `dim * rank` per draw, so it represents the strongest correlations where a
    dense covariance does not fit in memory. The density takes one Cholesky factorization of
    `C = I + F'F` `(rank, rank)`: `log |I + F F'| = log |C|`, and the quadratic form is
    `|e - F b|^2 + |b|^2` with `b = C^-1 F'e`, a sum of squares. (The usual Woodbury difference
    `|e|^2 - e'F C^-1 F'e` cancels in float32 once the factor is large.) Source: Gaussian
    Variational Approximation with a Factor Covariance Structure, Ong, Nott, Smith, 2018.

    Args:
        rank: number of columns of `F`. By default `ceil(sqrt(dim))`, at least 2 and at most 10:
            the cost per draw and the noise in the factor's gradient grow with every column, and
            the leading ones matter most. At most `dim`.
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
        factor = jax.random.normal(key, (loc.size, rank), loc.dtype) * (
            _INIT_ROW_NORM / math.sqrt(rank)
        )
        return LowRankParams(loc, jnp.full_like(loc, math.log(self.init_scale)), factor)

    def num_normals(self, params: LowRankParams, space: Space) -> int:
        return sum(params.factor.shape)

    def draw(self, params: LowRankParams, space: Space, key: Array, batch: Batch) -> Draw:
        dim, rank = params.factor.shape
        noise = normals(key, (dim + rank,), params.loc.dtype)
        residual = noise[:dim] + params.factor @ noise[dim:]
        z = params.loc + jnp.exp(params.log_scale) * residual
        # computed from the residual: z - loc would cancel where loc is large
        return Draw(unravel(space, z), _log_prob(params, residual))

    def log_prob(self, params: LowRankParams, space: Space, z: Position, batch: Batch) -> Array:
        residual = (space.ravel(z) - params.loc) * jnp.exp(-params.log_scale)
        return _log_prob(params, residual)

    def entropy(self, params: LowRankParams, space: Space) -> Array:
        dim = params.loc.size
        return _log_det(params, _capacitance_factor(params)) + 0.5 * dim * (1 + LOG_2PI)

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


def _log_prob(params: LowRankParams, residual: Array) -> Array:
    """Log density at `loc + S residual`, a scalar."""
    lower = _capacitance_factor(params)
    b = cho_solve((lower, True), params.factor.T @ residual)
    square = jnp.sum((residual - params.factor @ b) ** 2) + jnp.sum(b**2)
    return -0.5 * square - _log_det(params, lower) - 0.5 * residual.size * LOG_2PI
