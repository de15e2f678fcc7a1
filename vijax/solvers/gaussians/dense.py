"""Gaussians on the host, their ELBOs, and the noise these are estimated with.

All linear algebra of the solvers is NumPy's: SciPy brings a BLAS of its own, and two pools of
threads that spin beside XLA's made loops over small matrices thirty times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.runtime.errors import VijaxError, mismatch

LOG_2PI = math.log(2 * math.pi)

_CLEARLY = 0.02  # nats, beyond the standard errors

# `(num, dim)` points to log density `(num,)` and gradient `(num, dim)`: what a kernel does
Evaluate = Callable[[Floats], tuple[Floats, Floats]]


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
    def conditional_sd(self) -> Floats:
        """Standard deviation of each coordinate given all others, `1 / sqrt(precision_ii)`."""
        inverse = np.linalg.inv(self.factor)
        return 1 / np.sqrt(np.sum(inverse**2, axis=0))

    @property
    def cholesky(self) -> Floats:
        """Lower Cholesky factor of the covariance, `(dim, dim)`, with a positive diagonal.

        Through a QR of the factor rather than a Cholesky of the covariance, whose condition
        number is the square.
        """
        upper = np.linalg.qr(self.factor.T).R
        return (upper * np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None]).T

    @property
    def log_det(self) -> float:
        """`log |factor|`, half the log determinant of the covariance."""
        return float(np.linalg.slogdet(self.factor)[1])

    def scaled(self, by: float) -> Gaussian:
        """The Gaussian with all standard deviations multiplied."""
        return self._replace(factor=by * self.factor)

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + noise @ self.factor.T

    def log_prob(self, points: Floats) -> Floats:
        """Normalized log density at `points` `(num, dim)`."""
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
    sd = np.sqrt(variance)  # factorizes the correlations: badly scaled is not ill-conditioned
    try:
        factor = np.linalg.cholesky(covariance / np.outer(sd, sd))
    except np.linalg.LinAlgError:
        return None
    return Gaussian(mean, sd[:, None] * factor)


class Normal(Protocol):
    """What an ELBO is estimated of: a Gaussian in whatever form."""

    @property
    def log_det(self) -> float:
        """Half the log determinant of the covariance."""

    def at(self, noise: Floats) -> Floats:
        """Standard normal `noise` `(num, dim)` to draws `(num, dim)`."""


class Estimate(NamedTuple):
    """A Monte Carlo estimate of an ELBO, and the standard error of it."""

    elbo: float
    se: float


def estimate_elbo(evaluate: Evaluate, gaussian: Normal, noise: Floats) -> Estimate:
    """`E_q[log p - log q]` from draws at antithetic `noise`, see `antithetic`; unbiased."""
    return summarize(elbo_terms(evaluate, gaussian, noise))


def elbo_terms(evaluate: Evaluate, gaussian: Normal, noise: Floats) -> Floats:
    """`log p - log q` averaged over each pair of mirrored draws, `(num // 2,)`.

    The log density of each draw is set against `log q` at the same draw, so that the error of
    the mean vanishes as `q` becomes exact. A draw of log density -inf makes its pair -inf.
    """
    log_density, _ = evaluate(gaussian.at(noise))
    terms = log_density - log_normal(noise, gaussian.log_det)
    return 0.5 * (terms[: len(terms) // 2] + terms[len(terms) // 2 :])


def summarize(terms: Floats) -> Estimate:
    """The mean of independent terms and its standard error; -inf and inf if one is infinite."""
    if not np.isfinite(terms).all():
        return Estimate(-np.inf, np.inf)
    return Estimate(float(terms.mean()), float(terms.std(ddof=1) / math.sqrt(len(terms))))


def clearly_better(rival: Floats, terms: Floats) -> bool:
    """Whether a rival's ELBO terms, from the same noise, are higher by more than chance allows."""
    if not np.isfinite(terms).all():
        return bool(np.isfinite(rival).all())
    gain = rival - terms
    return bool(gain.mean() > _CLEARLY + 4 * gain.std() / math.sqrt(len(gain)))


def require_even(option: str, value: int) -> None:
    """Refuses a number of draws that cannot be split into mirrored pairs.

    Raises:
        VijaxError: naming the option.
    """
    if value < 4 or value % 2:
        raise VijaxError(mismatch(option, "an even number of at least 4", repr(value)))


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


def matched(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Standard normal `(num, dim)`: mean zero, and second moments as exact as `num` allows.

    Like `whitened`, but where there are too few pairs for the identity each coordinate has unit
    variance: what a mean-field Gaussian needs most.
    """
    if num // 2 >= dim:
        return whitened(rng, num, dim)
    half = rng.standard_normal((num // 2, dim))
    half /= np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])
