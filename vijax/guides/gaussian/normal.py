"""Gaussian guides: mean-field (diagonal covariance) and full-rank."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.contracts import (
    Batch,
    Draw,
    GaussianGuide,
    HostDraws,
    MeanFieldGuide,
    NormalNoiseGuide,
    Part,
    Position,
    Space,
)
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

_LOG_2PI = math.log(2 * math.pi)


class MeanFieldParams(NamedTuple):
    """`loc` and `log_scale` of every site, each with the site's `z_shape`."""

    loc: Position
    log_scale: Position


class FullRankParams(NamedTuple):
    """`loc` `(dim,)` and the Cholesky factor `L = diag(exp(log_scale)) (I + strict lower)`.

    Rows of `lower` are in units of their own scale, so that one step size suits parameters of
    any magnitude. Entries of `lower` on and above the diagonal are never read.
    """

    loc: Array
    log_scale: Array
    lower: Array


@dataclasses.dataclass(frozen=True)
class MeanField(GaussianGuide, MeanFieldGuide, NormalNoiseGuide):
    """Independent Gaussians on every unconstrained coordinate.

    `q(z) = prod_i N(z_i; loc_i, exp(log_scale_i)^2)`. Cost linear in the dimension. Underestimates
    variances where coordinates correlate: at the optimum for a Gaussian target each variance is
    the conditional one, `1 / precision_ii`. Source: Automatic Differentiation Variational
    Inference, Kucukelbir et al., 2017.

    Parameters are kept by site: cut out of one vector they would be copied at every step, and
    their gradients copied back, a tenth of the step of a network with half a million weights.

    Args:
        init_scale: standard deviation of every coordinate at the start.
    """

    factorized: ClassVar[bool] = True
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> MeanFieldParams:
        return self._narrow({name: jnp.asarray(location[name]) for name in space.names}, jnp)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> MeanFieldParams:
        return self._narrow({name: location[name] for name in space.names}, np)

    def row_axes(
        self, params: MeanFieldParams, space: Space, plates: Collection[str]
    ) -> MeanFieldParams:
        axes: dict[str, Any] = {site.name: site.axes(plates) for site in space.sites}
        return MeanFieldParams(axes, axes)

    def transfer(
        self, params: MeanFieldParams, space: Space, parts: Sequence[Part]
    ) -> MeanFieldParams:
        """Those of other mean-field guides, and what is closest to a dense Gaussian."""
        theirs = MeanFieldParams({}, {})
        for part in parts:
            own = part.params
            if isinstance(part.guide, DenseGaussian):
                own = _factorized(own, part.space)
            elif not isinstance(part.guide, MeanField):
                continue
            for site in part.space.sites:
                if space.subset([site.name]).same_coordinates(part.space.subset([site.name])):
                    theirs.loc[site.name] = own.loc[site.name]
                    theirs.log_scale[site.name] = own.log_scale[site.name]
        return MeanFieldParams(params.loc | theirs.loc, params.log_scale | theirs.log_scale)

    def _narrow(self, loc: dict[str, Any], xp: Any) -> MeanFieldParams:
        width = math.log(self.init_scale)
        return MeanFieldParams(loc, {name: xp.full_like(x, width) for name, x in loc.items()})

    def draw(self, params: MeanFieldParams, space: Space, key: Array, batch: Batch) -> Draw:
        # one block for all sites: a program for each is slower to compile, and to run
        noise = space.unravel(normals(key, (space.dim,), _dtype(params.loc)))
        z = {
            name: params.loc[name] + jnp.exp(params.log_scale[name]) * noise[name]
            for name in space.names
        }
        return Draw(z, _log_factors(noise, params, space))

    def log_prob(self, params: MeanFieldParams, space: Space, z: Position, batch: Batch) -> Array:
        return _log_factors(_noise(params, space, z), params, space)

    def site_log_probs(
        self, params: MeanFieldParams, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        return {
            name: -0.5 * noise**2 - params.log_scale[name] - 0.5 * _LOG_2PI
            for name, noise in _noise(params, space, z).items()
        }

    def entropy(self, params: MeanFieldParams, space: Space) -> Array:
        return _total(s.scale * _entropy(params.log_scale[s.name]) for s in space.sites)

    def mean(self, params: MeanFieldParams, space: Space) -> Array:
        return space.ravel(params.loc)

    def covariance(self, params: MeanFieldParams, space: Space) -> Array:
        return jnp.diag(jnp.exp(2 * space.ravel(params.log_scale)))


@dataclasses.dataclass(frozen=True)
class DenseGaussian(GaussianGuide, NormalNoiseGuide):
    """The family `N(loc, L L')`, of which `FullRank` and `Laplace` are the two uses.

    Args:
        init_scale: standard deviation of every coordinate at the start.
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> FullRankParams:
        return self._narrow(space.ravel(location), jnp)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> FullRankParams:
        return self._narrow(space.host_ravel(location), np)

    def _narrow(self, loc: Any, xp: Any) -> FullRankParams:
        log_scale = xp.full_like(loc, math.log(self.init_scale))
        return FullRankParams(loc, log_scale, xp.zeros((loc.size, loc.size), loc.dtype))

    def draw(self, params: FullRankParams, space: Space, key: Array, batch: Batch) -> Draw:
        noise = normals(key, params.loc.shape, params.loc.dtype)
        z = params.loc + cholesky_factor(params) @ noise
        return Draw(space.unravel(z), _log_normal(noise, params.log_scale))

    def log_prob(self, params: FullRankParams, space: Space, z: Position, batch: Batch) -> Array:
        residual = space.ravel(z) - params.loc
        noise = solve_triangular(cholesky_factor(params), residual, lower=True)
        return _log_normal(noise, params.log_scale)

    def entropy(self, params: FullRankParams, space: Space) -> Array:
        return _entropy(params.log_scale)

    def host_draws(
        self, params: FullRankParams, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws:
        loc, log_scale, factor = _on_host(params)
        noise = rng.standard_normal((num_draws, loc.size))
        return HostDraws(loc + noise @ factor.T, _host_log_normal(noise, log_scale))

    def host_log_prob(self, params: FullRankParams, space: Space, points: np.ndarray) -> np.ndarray:
        loc, log_scale, factor = _on_host(params)
        return _host_log_normal(np.linalg.solve(factor, (points - loc).T).T, log_scale)

    def mean(self, params: FullRankParams, space: Space) -> Array:
        return params.loc

    def covariance(self, params: FullRankParams, space: Space) -> Array:
        factor = cholesky_factor(params)
        return factor @ factor.T


@dataclasses.dataclass(frozen=True)
class FullRank(DenseGaussian):
    """One Gaussian with a dense covariance on the whole unconstrained space.

    `q(z) = N(z; loc, L L')`. Exact for Gaussian targets; `dim^2` memory, so meant for dimensions
    up to about a thousand. Source: Automatic Differentiation Variational Inference, Kucukelbir et
    al., 2017.

    Args:
        init_scale: standard deviation of every coordinate at the start.
    """


def require_positive(option: str, value: float) -> None:
    """Refuses an option that is not a positive finite number.

    Raises:
        GuideError: naming the option.
    """
    if not 0 < value < math.inf:
        raise GuideError(mismatch(option, "a positive finite number", repr(value)))


def cholesky_factor(params: FullRankParams) -> Array:
    """The lower Cholesky factor `L` `(dim, dim)` of the covariance."""
    unit = jnp.tril(params.lower, -1) + jnp.eye(params.loc.size, dtype=params.loc.dtype)
    return jnp.exp(params.log_scale)[:, None] * unit


def _factorized(params: FullRankParams, space: Space) -> MeanFieldParams:
    """The independent Gaussians of least KL from them: each coordinate's given all others."""
    loc, _, factor = _on_host(params)
    log_scale = -0.5 * np.log(np.sum(np.linalg.inv(factor) ** 2, axis=0))
    vectors = (vector.astype(params.loc.dtype) for vector in (loc, log_scale))
    by_site: list[Any] = [space.host_unravel(vector) for vector in vectors]
    return MeanFieldParams(*by_site)


def _on_host(params: FullRankParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`loc`, `log_scale` and the Cholesky factor in float64."""
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return loc, log_scale, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size))


def _host_log_normal(noise: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    return -0.5 * np.sum(noise**2, axis=1) - log_scale.sum() - 0.5 * noise.shape[1] * _LOG_2PI


def _noise(params: MeanFieldParams, space: Space, z: Position) -> Position:
    """The standard normal numbers that lead to `z`."""
    return {
        name: (z[name] - params.loc[name]) * jnp.exp(-params.log_scale[name])
        for name in space.names
    }


def _log_factors(noise: Position, params: MeanFieldParams, space: Space) -> Array:
    """Sum of the sites' normal log densities, each scaled as the model's own are."""
    return _total(
        s.scale * _log_normal(noise[s.name], params.log_scale[s.name]) for s in space.sites
    )


def _dtype(position: Position) -> Any:
    return jnp.result_type(*position.values())


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _log_normal(noise: Array, log_scale: Array) -> Array:
    """`log N` of `loc + L noise` for `log |L| = sum(log_scale)`."""
    return -0.5 * jnp.sum(noise**2) - jnp.sum(log_scale) - 0.5 * noise.size * _LOG_2PI


def _entropy(log_scale: Array) -> Array:
    return jnp.sum(log_scale) + 0.5 * log_scale.size * (1 + _LOG_2PI)
