"""From a Gaussian on the host to the parameters of a guide, and back.

The only place in the solvers that knows how guides store a Gaussian. It goes by the type of the
parameters: registering two functions here makes another guide work with every solver. A vector's
order is that of the space's sites; a dict's is not, because JAX sorts the keys of dicts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
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
from vijax.runtime.errors import GuideError
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import Factored, nearest

_FACTOR_STEPS = 200  # of expectation maximization; each costs dim^2 rank


@functools.singledispatch
def to_params(params: Any, gaussian: Gaussian | Factored, space: Space) -> Any:
    """Parameters of the same type as `params` for a guide that is to represent `gaussian`.

    Full-rank parameters hold it exactly. Mean-field ones hold the factorized Gaussian closest to
    it in KL(q || gaussian): the same mean and the conditional variances `1 / precision_ii`.
    Low-rank ones hold a diagonal plus few directions exactly, the widest of more directions with
    every precision kept, and of a dense Gaussian the member closest in KL(gaussian || q), which
    keeps every variance. A point mass keeps the mean.

    Args:
        params: the guide's present parameters; their type, shapes and dtypes are kept.
        gaussian: on the raveled space.
        space: the sites, whose order is that of the Gaussian's coordinates.

    Raises:
        GuideError: the guide holds no Gaussian that a solver could fill in.
    """
    raise GuideError(_unsupported(params))


@functools.singledispatch
def from_params(params: Any, space: Space) -> Gaussian | Factored:
    """The Gaussian that a guide's parameters stand for; computed on the host, compiles nothing.

    Raises:
        GuideError: the guide holds no Gaussian.
    """
    raise GuideError(_unsupported(params))


def filled(
    kernel: Kernel,
    variables: Variables,
    gaussians: Sequence[Gaussian | Factored | None],
    reason: str,
    converged: bool,
    elbos: Iterable[float] = (),
) -> Solution:
    """A guide that represents the first of the Gaussians, with the others as alternatives.

    Args:
        kernel: what the run was driven with.
        variables: where the run started; left as they are where it found no Gaussian.
        gaussians: what the run found; only the first can be `None`.
        reason: see `Solution`.
        converged: see `Solution`.
        elbos: of the iterates.

    Raises:
        GuideError: the guide's parameters hold no Gaussian.
    """
    space = kernel.target.space
    found = [to_params(variables.guide, one, space) for one in gaussians if one is not None]
    return Solution(
        variables._replace(guide=found[0]) if found else variables,
        reason,
        converged and bool(found),
        kernel.points,
        tuple(float(-elbo) for elbo in elbos),
        tuple(found[1:]),
    )


def location(params: Any, space: Space) -> Floats:
    """The center `(dim,)` of the guide with these parameters.

    Raises:
        GuideError: the guide has none.
    """
    return _vector(_located(params).loc, space)


def relocate(params: Any, where: Floats, space: Space) -> Any:
    """The parameters with their center moved to `where` `(dim,)`, all else as it was.

    Raises:
        GuideError: the guide has no center.
    """
    located = _located(params)
    return located._replace(loc=_like(where, located.loc, space))


def _located(params: Any) -> Any:
    if not isinstance(params, (DeltaParams, FullRankParams, LowRankParams, MeanFieldParams)):
        raise GuideError(_unsupported(params))
    return params


@to_params.register
def _(params: DeltaParams, gaussian: Gaussian | Factored, space: Space) -> DeltaParams:
    return relocate(params, gaussian.mean, space)


@to_params.register
def _(params: FullRankParams, gaussian: Gaussian | Factored, space: Space) -> FullRankParams:
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
def _(params: MeanFieldParams, gaussian: Gaussian | Factored, space: Space) -> MeanFieldParams:
    log_scale = np.log(gaussian.conditional_sd)
    return MeanFieldParams(
        _like(gaussian.mean, params.loc, space), _like(log_scale, params.log_scale, space)
    )


@from_params.register
def _(params: MeanFieldParams, space: Space) -> Factored:
    loc, log_scale = (_vector(position, space) for position in params)
    return Factored(loc, np.exp(log_scale), np.zeros((loc.size, 0)), np.zeros(0))


@to_params.register
def _(params: LowRankParams, gaussian: Gaussian | Factored, space: Space) -> LowRankParams:
    rank = params.factor.shape[1]
    if isinstance(gaussian, Factored):
        return _low_rank_params(params, nearest(gaussian, rank))
    sd = gaussian.sd
    root = gaussian.factor / sd[:, None]
    noise, loadings = factor_analysis(root @ root.T, rank)
    scale = np.sqrt(noise)
    return LowRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(scale * sd), params.log_scale),
        _device(loadings / scale[:, None], params.factor),
    )


def _low_rank_params(params: LowRankParams, gaussian: Factored) -> LowRankParams:
    factor = np.zeros(params.factor.shape)  # directions that are not needed stay zero
    factor[:, : gaussian.rank] = gaussian.basis * np.sqrt(gaussian.stretch**2 - 1)
    return LowRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(gaussian.scale), params.log_scale),
        _device(factor, params.factor),
    )


@from_params.register
def _(params: LowRankParams, space: Space) -> Factored:
    loc, log_scale, factor = (np.asarray(leaf, np.float64) for leaf in params)
    directions, s, _ = np.linalg.svd(factor, full_matrices=False)
    return Factored(loc, np.exp(log_scale), directions, np.sqrt(1 + s**2))


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
    for _ in range(_FACTOR_STEPS):
        weighted = loadings / noise[:, None]
        inner = np.linalg.inv(np.eye(rank) + loadings.T @ weighted)
        beta = inner @ weighted.T  # posterior mean of the factors is beta @ x
        cross = correlation @ beta.T
        loadings = cross @ np.linalg.inv(inner + beta @ cross)
        noise = np.maximum(1 - np.einsum("ij,ij->i", loadings, cross), floor)
    # the floor aside, EM's fixed point keeps the diagonal; make it exact after any number of steps
    total = noise + np.sum(loadings**2, axis=1)
    return noise / total, loadings / np.sqrt(total)[:, None]


def _vector(position: Array | Position, space: Space) -> Floats:
    """A vector as it is, or a position laid out as one, `(dim,)`."""
    if not isinstance(position, dict):
        return np.asarray(position, np.float64)
    return np.concatenate([np.ravel(np.asarray(position[name], float)) for name in space.names])


def _like(vector: Floats, position: Any, space: Space) -> Any:
    """A vector `(dim,)` in the form of `position`; the inverse of `_vector`."""
    if not isinstance(position, dict):
        return _device(vector, position)
    return {
        name: _device(value, position[name]) for name, value in space.host_unravel(vector).items()
    }


def _device(value: Floats, like: Array) -> Array:
    # not jnp.asarray, which compiles a copy for every new shape
    return jax.device_put(np.asarray(value, like.dtype))


def _unsupported(params: Any) -> str:
    return (
        "guide: expected one whose parameters hold a Gaussian or a point (FullRank, LowRank, "
        f"MeanField, Laplace, Delta), got parameters of type {type(params).__name__}. Use such a "
        "guide with this solver, or a gradient algorithm with this guide."
    )
