"""Conversion between Gaussians on the host and guide parameters.

The only module of the solvers that depends on how guides store a Gaussian. Dispatches on the type
of the parameters: a guide that registers `to_params` and `from_params` works with every solver. The
coordinates of a vector follow the order of the space's sites; the keys of a dict do not, since JAX
sorts them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Position, Solution, Space, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.guides.delta import DeltaParams
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.low_rank import LowRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.runtime.deadline import offer
from vijax.runtime.errors import GuideError
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import LowRankGaussian, low_rank_approximation

_EM_STEPS = 200  # EM iterations of factor analysis; each costs dim^2 rank


@functools.singledispatch
def to_params(params: Any, gaussian: Gaussian | LowRankGaussian, space: Space) -> Any:
    """Parameters of the same type as `params` for a guide that represents `gaussian`.

    Full-rank parameters represent it exactly. Mean-field ones represent the factorized Gaussian
    closest in KL(q || gaussian): the same mean and the conditional variances `1 / precision_ii`.
    Low-rank ones represent a diagonal plus `rank` directions exactly, more directions by
    `low_rank_approximation`, which keeps every precision, and a dense Gaussian by the member
    closest in KL(gaussian || q), which keeps every variance. A point mass keeps the mean.

    Args:
        params: the guide's current parameters; their type, shapes and dtypes are kept.
        gaussian: on the raveled space.
        space: the sites, in the order of the Gaussian's coordinates.

    Raises:
        GuideError: the guide has no Gaussian or point-mass parameters.
    """
    raise GuideError(_unsupported(params))


@functools.singledispatch
def from_params(params: Any, space: Space) -> Gaussian | LowRankGaussian:
    """The Gaussian represented by a guide's parameters; computed on the host, compiles nothing.

    Raises:
        GuideError: the guide is not Gaussian.
    """
    raise GuideError(_unsupported(params))


def gaussian_solution(
    kernel: Kernel,
    variables: Variables,
    gaussians: Sequence[Gaussian | LowRankGaussian | None],
    reason: str,
    converged: bool,
    elbos: Iterable[float] = (),
    unseen: float | None = None,
) -> Solution:
    """A solution whose guide represents the first Gaussian, with the others as alternatives.

    Args:
        kernel: the kernel used by the run.
        variables: initial variables; returned unchanged if the run found no Gaussian.
        gaussians: results of the run; only the first can be `None`.
        reason: see `Solution`.
        converged: see `Solution`.
        elbos: ELBOs of the iterates.
        unseen: see `Solution`.

    Raises:
        GuideError: the guide's parameters do not represent a Gaussian.
    """
    space = kernel.target.space
    params = [to_params(variables.guide, one, space) for one in gaussians if one is not None]
    return Solution(
        variables._replace(guide=params[0]) if params else variables,
        reason,
        converged and bool(params),
        kernel.points,
        tuple(float(-elbo) for elbo in elbos),
        tuple(params[1:]),
        unseen,
    )


def offers_gaussians(kernel: Kernel, variables: Variables) -> Kernel:
    """The kernel, whose Gaussians so far are handed on as solutions; see `offer`.

    Args:
        kernel: of a solver's run.
        variables: initial variables.
    """

    def found(gaussian: Callable[[], Gaussian | LowRankGaussian]) -> None:
        reason = "the best Gaussian so far"
        offer(lambda: gaussian_solution(kernel, variables, [gaussian()], reason, False))

    kernel.found = found
    return kernel


def location(params: Any, space: Space) -> Floats:
    """The location `(dim,)` of the guide with these parameters.

    Raises:
        GuideError: the guide has none.
    """
    return _vector(_with_location(params).loc, space)


def relocate(params: Any, new_location: Floats, space: Space) -> Any:
    """The parameters with the location replaced by `new_location` `(dim,)`, otherwise unchanged.

    Raises:
        GuideError: the guide has no location.
    """
    checked = _with_location(params)
    return checked._replace(loc=_like_position(new_location, checked.loc, space))


def _with_location(params: Any) -> Any:
    if not isinstance(params, (DeltaParams, FullRankParams, LowRankParams, MeanFieldParams)):
        raise GuideError(_unsupported(params))
    return params


@to_params.register
def _(params: DeltaParams, gaussian: Gaussian | LowRankGaussian, space: Space) -> DeltaParams:
    return relocate(params, gaussian.mean, space)


@to_params.register
def _(params: FullRankParams, gaussian: Gaussian | LowRankGaussian, space: Space) -> FullRankParams:
    cholesky = gaussian.cholesky
    scale = np.diag(cholesky)
    return FullRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(scale), params.log_scale),
        _device(np.tril(cholesky / scale[:, None], -1), params.lower),
    )


@from_params.register
def _(params: FullRankParams, space: Space) -> Gaussian:
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size)))


@to_params.register
def _(
    params: MeanFieldParams, gaussian: Gaussian | LowRankGaussian, space: Space
) -> MeanFieldParams:
    log_scale = np.log(gaussian.conditional_sd)
    return MeanFieldParams(
        _like_position(gaussian.mean, params.loc, space),
        _like_position(log_scale, params.log_scale, space),
    )


@from_params.register
def _(params: MeanFieldParams, space: Space) -> LowRankGaussian:
    loc, log_scale = (_vector(position, space) for position in params)
    return LowRankGaussian(loc, np.exp(log_scale), np.zeros((loc.size, 0)), np.zeros(0))


@to_params.register
def _(params: LowRankParams, gaussian: Gaussian | LowRankGaussian, space: Space) -> LowRankParams:
    rank = params.factor.shape[1]
    if isinstance(gaussian, LowRankGaussian):
        return _low_rank_params(params, low_rank_approximation(gaussian, rank))
    sd = gaussian.sd
    root = gaussian.factor / sd[:, None]
    noise, loadings = factor_analysis(root @ root.T, rank)
    scale = np.sqrt(noise)
    return LowRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(scale * sd), params.log_scale),
        _device(loadings / scale[:, None], params.factor),
    )


def _low_rank_params(params: LowRankParams, gaussian: LowRankGaussian) -> LowRankParams:
    factor = np.zeros(params.factor.shape)  # unused columns are zero
    factor[:, : gaussian.rank] = gaussian.basis * np.sqrt(gaussian.axis_sd**2 - 1)
    return LowRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(gaussian.scale), params.log_scale),
        _device(factor, params.factor),
    )


@from_params.register
def _(params: LowRankParams, space: Space) -> LowRankGaussian:
    loc, log_scale, factor = (np.asarray(leaf, np.float64) for leaf in params)
    directions, s, _ = np.linalg.svd(factor, full_matrices=False)
    return LowRankGaussian(loc, np.exp(log_scale), directions, np.sqrt(1 + s**2))


def factor_analysis(correlation: Floats, rank: int) -> tuple[Floats, Floats]:
    """`noise` `(dim,)` and `loadings` `(dim, rank)` with `diag(noise) + loadings loadings'` close.

    Minimizes KL(given || fitted) by expectation maximization from the leading eigenvectors; the
    diagonal is kept exactly. Source: EM algorithms for ML factor analysis, Rubin and Thayer, 1982.

    Args:
        correlation: a correlation matrix `(dim, dim)`.
        rank: number of factors.
    """
    values, vectors = np.linalg.eigh(correlation)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    floor = 1e-6
    loadings = vectors * np.sqrt(np.maximum(values - 1, floor))
    noise = np.maximum(1 - np.sum(loadings**2, axis=1), 0.1)
    for _ in range(_EM_STEPS):
        weighted = loadings / noise[:, None]
        inner = np.linalg.inv(np.eye(rank) + loadings.T @ weighted)
        beta = inner @ weighted.T  # posterior mean of the factors is beta @ x
        cross = correlation @ beta.T
        loadings = cross @ np.linalg.inv(inner + beta @ cross)
        noise = np.maximum(1 - np.einsum("ij,ij->i", loadings, cross), floor)
    # except for the floor, the fixed point of EM preserves the diagonal; enforces it exactly
    total = noise + np.sum(loadings**2, axis=1)
    return noise / total, loadings / np.sqrt(total)[:, None]


def _vector(position: Array | Position, space: Space) -> Floats:
    """A vector unchanged, or a position raveled, `(dim,)`."""
    if not isinstance(position, dict):
        return np.asarray(position, np.float64)
    return np.concatenate([np.ravel(np.asarray(position[name], float)) for name in space.names])


def _like_position(vector: Floats, position: Any, space: Space) -> Any:
    """A vector `(dim,)` in the form of `position`; the inverse of `_vector`."""
    if not isinstance(position, dict):
        return _device(vector, position)
    return {
        name: _device(value, position[name]) for name, value in space.host_unravel(vector).items()
    }


def _device(value: Floats, template: Array) -> Array:
    # unlike jnp.asarray, device_put compiles nothing for new shapes
    return jax.device_put(np.asarray(value, template.dtype))


def _unsupported(params: Any) -> str:
    return (
        "guide: expected a Gaussian or point-mass guide (FullRank, LowRank, "
        f"MeanField, Laplace, Delta), got parameters of type {type(params).__name__}. Use "
        "one of these with this solver, or algorithm='gradient' with this guide."
    )
