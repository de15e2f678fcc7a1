"""From a Gaussian on the host to the parameters of a guide, and back.

The only place in the solvers that knows how guides store a Gaussian. It goes by the type of the
parameters: registering two functions here makes another guide work with every solver.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax._errors import GuideError
from vijax._kernel import Floats
from vijax.guides.delta import DeltaParams
from vijax.guides.low_rank import LowRankParams
from vijax.guides.normal import FullRankParams, MeanFieldParams
from vijax.solvers.gaussian import Gaussian

_FACTOR_STEPS = 200  # of expectation maximisation; each costs dim^2 rank


@functools.singledispatch
def to_params(params: Any, gaussian: Gaussian) -> Any:
    """Parameters of the same type as `params` for a guide that is to represent `gaussian`.

    Full-rank parameters hold it exactly. Mean-field ones hold the factorised Gaussian closest to
    it in KL(q || gaussian): the same mean and the conditional variances `1 / precision_ii`.
    Low-rank ones hold the one closest in KL(gaussian || q), which keeps every variance. A point
    mass keeps the mean.

    Raises:
        GuideError: the guide holds no Gaussian that a solver could fill in.
    """
    raise GuideError(_unsupported(params))


@functools.singledispatch
def from_params(params: Any) -> Gaussian:
    """The Gaussian that a guide's parameters stand for; computed on the host, compiles nothing.

    Raises:
        GuideError: the guide holds no Gaussian.
    """
    raise GuideError(_unsupported(params))


def location(params: Any) -> Floats:
    """The centre `(dim,)` of the guide with these parameters.

    Raises:
        GuideError: the guide has none.
    """
    return np.asarray(_located(params).loc, np.float64)


def relocate(params: Any, where: Floats) -> Any:
    """The parameters with their centre moved to `where` `(dim,)`, all else as it was.

    Raises:
        GuideError: the guide has no centre.
    """
    located = _located(params)
    return located._replace(loc=_device(where, located.loc))


def _located(params: Any) -> Any:
    if not isinstance(params, (DeltaParams, FullRankParams, LowRankParams, MeanFieldParams)):
        raise GuideError(_unsupported(params))
    return params


@to_params.register
def _(params: DeltaParams, gaussian: Gaussian) -> DeltaParams:
    return relocate(params, gaussian.mean)


@to_params.register
def _(params: FullRankParams, gaussian: Gaussian) -> FullRankParams:
    cholesky = gaussian.cholesky
    scale = np.diag(cholesky)
    return FullRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(scale), params.log_scale),
        _device(np.tril(cholesky / scale[:, None], -1), params.lower),
    )


@from_params.register
def _(params: FullRankParams) -> Gaussian:
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size)))


@to_params.register
def _(params: MeanFieldParams, gaussian: Gaussian) -> MeanFieldParams:
    inverse = np.linalg.inv(gaussian.factor)
    log_scale = -0.5 * np.log(np.sum(inverse**2, axis=0))
    return MeanFieldParams(_device(gaussian.mean, params.loc), _device(log_scale, params.log_scale))


@from_params.register
def _(params: MeanFieldParams) -> Gaussian:
    loc, log_scale = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.diag(np.exp(log_scale)))


@to_params.register
def _(params: LowRankParams, gaussian: Gaussian) -> LowRankParams:
    sd = gaussian.sd
    root = gaussian.factor / sd[:, None]
    noise, loadings = factor_analysis(root @ root.T, params.factor.shape[1])
    scale = np.sqrt(noise)
    return LowRankParams(
        _device(gaussian.mean, params.loc),
        _device(np.log(scale * sd), params.log_scale),
        _device(loadings / scale[:, None], params.factor),
    )


@from_params.register
def _(params: LowRankParams) -> Gaussian:
    loc, log_scale, factor = (np.asarray(leaf, np.float64) for leaf in params)
    # I + F F' = (I + U diag(sqrt(1 + s^2) - 1) U')^2
    directions, s, _ = np.linalg.svd(factor, full_matrices=False)
    root = np.eye(loc.size) + (directions * (np.sqrt(1 + s**2) - 1)) @ directions.T
    return Gaussian(loc, np.exp(log_scale)[:, None] * root)


def factor_analysis(correlation: Floats, rank: int) -> tuple[Floats, Floats]:
    """`noise` `(dim,)` and `loadings` `(dim, rank)` with `diag(noise) + loadings loadings'` close.

    Minimises KL(given || fitted) by expectation maximisation from the leading eigenvectors; the
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


def _device(value: Floats, like: Array) -> Array:
    # not jnp.asarray, which compiles a copy for every new shape
    return jax.device_put(np.asarray(value, like.dtype))


def _unsupported(params: Any) -> str:
    return (
        "guide: expected one whose parameters hold a Gaussian or a point (FullRank, LowRank, "
        f"MeanField, Laplace, Delta), got parameters of type {type(params).__name__}. Use such a "
        "guide with this solver, or a gradient algorithm with this guide."
    )
