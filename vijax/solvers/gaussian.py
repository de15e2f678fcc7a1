"""Gaussians on the host, and the way to and from the parameters of the guides.

The only place in the solvers that knows how a guide stores a Gaussian. A solver hands over a mean
and a factor; `to_params` turns them into the parameters a guide keeps, by the type of those.

All linear algebra of the solvers is NumPy's: SciPy brings a BLAS of its own, and two pools of
threads that spin beside XLA's made loops over small matrices thirty times slower.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vijax._errors import GuideError
from vijax.guides.normal import FullRankParams, MeanFieldParams
from vijax.solvers.kernel import Floats, Kernel

LOG_2PI = math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """`N(mean, factor factor')` in float64.

    Attributes:
        mean: `(dim,)`.
        factor: any square root `(dim, dim)` of the covariance, not necessarily triangular.
    """

    mean: Floats
    factor: Floats

    @property
    def covariance(self) -> Floats:
        """Covariance `(dim, dim)`."""
        return self.factor @ self.factor.T

    @property
    def sd(self) -> Floats:
        """Standard deviation of each coordinate, `(dim,)`."""
        return np.sqrt(np.einsum("ij,ij->i", self.factor, self.factor))

    @property
    def cholesky(self) -> Floats:
        """Lower Cholesky factor of the covariance, `(dim, dim)`, with a positive diagonal.

        Through a QR of the factor rather than a Cholesky of the covariance, whose condition
        number is the square.
        """
        upper = np.linalg.qr(self.factor.T, mode="r")
        return (upper * np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None]).T

    @property
    def log_det(self) -> float:
        """`log |factor|`, half the log determinant of the covariance."""
        return float(np.linalg.slogdet(self.factor)[1])

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + noise @ self.factor.T

    def log_prob(self, points: Floats) -> Floats:
        """Normalised log density at `points` `(num, dim)`."""
        noise = np.linalg.solve(self.factor, (points - self.mean).T)
        return log_normal(noise.T, self.log_det)


def log_normal(noise: Floats, log_det: float | Floats) -> Floats:
    """Log density of `mean + F noise` for `log |F| = log_det`; `noise` is `(..., dim)`."""
    return -0.5 * np.sum(noise**2, axis=-1) - log_det - 0.5 * noise.shape[-1] * LOG_2PI


def from_moments(mean: Floats, covariance: Floats) -> Gaussian | None:
    """The Gaussian with these moments, or `None` where the covariance is not positive definite."""
    variance = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variance > 0).all()):
        return None
    sd = np.sqrt(variance)  # factorises the correlations: badly scaled is not ill-conditioned
    try:
        factor = np.linalg.cholesky(covariance / np.outer(sd, sd))
    except np.linalg.LinAlgError:
        return None
    return Gaussian(mean, sd[:, None] * factor)


class Estimate(NamedTuple):
    """A Monte Carlo estimate of an ELBO, and the standard error of it."""

    elbo: float
    se: float


def estimate_elbo(kernel: Kernel, gaussian: Gaussian, noise: Floats) -> Estimate:
    """`E_q[log p - log q]` from draws at antithetic `noise`, see `antithetic`.

    Unbiased. The log density of each draw is set against `log q` at the same draw, so that the
    error vanishes as `q` becomes exact. A draw of log density -inf makes the estimate -inf.
    """
    log_density, _ = kernel(gaussian.at(noise))
    terms = log_density - log_normal(noise, gaussian.log_det)
    if not np.isfinite(terms).all():
        return Estimate(-np.inf, np.inf)
    pairs = 0.5 * (terms[: len(terms) // 2] + terms[len(terms) // 2 :])
    return Estimate(float(pairs.mean()), float(pairs.std(ddof=1) / math.sqrt(len(pairs))))


def antithetic(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Standard normal `(num, dim)` for even `num`: the second half mirrors the first."""
    half = rng.standard_normal((num // 2, dim))
    return np.concatenate([half, -half])


def whitened(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Standard normal `(num, dim)` whose sample moments are as exact as `num` allows.

    Mirrored pairs make the mean zero. If there are enough pairs the second moments are made the
    identity; else the pairs point in orthogonal directions, their lengths as random as ever.
    """
    half = rng.standard_normal((num // 2, dim))
    if num // 2 >= dim:
        factor = np.linalg.cholesky(half.T @ half / (num // 2))
        half = np.linalg.solve(factor, half.T).T
    else:
        lengths = np.linalg.norm(half, axis=1, keepdims=True)
        half = np.linalg.qr(half.T)[0].T * lengths
    return np.concatenate([half, -half])


def host_rng(key: jax.Array) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


@functools.singledispatch
def to_params(params: Any, gaussian: Gaussian) -> Any:
    """Parameters of the same type as `params` for a guide that is to represent `gaussian`.

    Full-rank parameters hold it exactly. Mean-field ones hold the factorised Gaussian closest to
    it in KL(q || gaussian): the same mean and the conditional variances `1 / precision_ii`.
    Register an implementation by the type of the parameters to support another guide.

    Raises:
        GuideError: the guide holds no Gaussian that a solver could fill in.
    """
    raise GuideError(_unsupported(params))


@to_params.register
def _(params: FullRankParams, gaussian: Gaussian) -> FullRankParams:
    cholesky = gaussian.cholesky
    scale = np.diag(cholesky)
    lower = np.tril(cholesky / scale[:, None], -1)
    return FullRankParams(
        *(
            jnp.asarray(np.asarray(new, old.dtype))
            for new, old in zip((gaussian.mean, np.log(scale), lower), params, strict=True)
        )
    )


@to_params.register
def _(params: MeanFieldParams, gaussian: Gaussian) -> MeanFieldParams:
    inverse = np.linalg.inv(gaussian.factor)
    log_scale = -0.5 * np.log(np.sum(inverse**2, axis=0))
    return MeanFieldParams(
        jnp.asarray(np.asarray(gaussian.mean, params.loc.dtype)),
        jnp.asarray(np.asarray(log_scale, params.log_scale.dtype)),
    )


@functools.singledispatch
def from_params(params: Any) -> Gaussian:
    """The Gaussian that a guide's parameters stand for; computed on the host, compiles nothing.

    Raises:
        GuideError: the guide holds no Gaussian.
    """
    raise GuideError(_unsupported(params))


@from_params.register
def _(params: FullRankParams) -> Gaussian:
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size)))


@from_params.register
def _(params: MeanFieldParams) -> Gaussian:
    loc, log_scale = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.diag(np.exp(log_scale)))


def _unsupported(params: Any) -> str:
    return (
        "guide: expected one whose parameters hold a Gaussian (FullRank, MeanField, Laplace), got "
        f"parameters of type {type(params).__name__}. Use such a guide with this solver, or a "
        "gradient algorithm with this guide."
    )
