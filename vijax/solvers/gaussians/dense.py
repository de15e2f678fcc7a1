"""Dense Gaussians on the host, ELBO estimates, and the standard normal draws behind these.

All linear algebra of the solvers uses NumPy: SciPy ships a separate BLAS, and two thread pools
spinning next to that of XLA made loops over small matrices thirty times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from vijax.contracts.kernel import Floats
from vijax.runtime.errors import VijaxError, mismatch

LOG_2PI = math.log(2 * math.pi)

_MIN_GAIN = 0.02  # nats, in addition to the standard errors

# from points `(num, dim)` to log density `(num,)` and gradient `(num, dim)`, as a `Kernel` does
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

    def scaled(self, factor: float) -> Gaussian:
        """The Gaussian with all standard deviations multiplied by `factor`."""
        return self._replace(factor=factor * self.factor)

    def transform(self, noise: Floats) -> Floats:
        """Maps standard normal `noise` `(num, dim)` to draws `(num, dim)`."""
        return self.mean + noise @ self.factor.T

    def log_prob(self, points: Floats) -> Floats:
        """Normalized log density at `points` `(num, dim)`."""
        noise = np.linalg.solve(self.factor, (points - self.mean).T)
        return log_normal(noise.T, self.log_det)


def log_normal(noise: Floats, log_det: float | Floats) -> Floats:
    """Log density of `mean + F noise` with `log |F| = log_det`; `noise` is `(..., dim)`."""
    return -0.5 * np.sum(noise**2, axis=-1) - log_det - 0.5 * noise.shape[-1] * LOG_2PI


def from_moments(mean: Floats, covariance: Floats) -> Gaussian | None:
    """The Gaussian with these moments; `None` if the covariance is not positive definite."""
    variance = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variance > 0).all()):
        return None
    sd = np.sqrt(variance)  # factorizes the correlation matrix: insensitive to scaling
    try:
        factor = np.linalg.cholesky(covariance / np.outer(sd, sd))
    except np.linalg.LinAlgError:
        return None
    return Gaussian(mean, sd[:, None] * factor)


class GaussianLike(Protocol):
    """A Gaussian in any representation, as required for an ELBO estimate."""

    @property
    def log_det(self) -> float:
        """Half the log determinant of the covariance."""

    def transform(self, noise: Floats) -> Floats:
        """Maps standard normal `noise` `(num, dim)` to draws `(num, dim)`."""


class Estimate(NamedTuple):
    """A Monte Carlo estimate of an ELBO and its standard error."""

    elbo: float
    se: float


def estimate_elbo(evaluate: Evaluate, gaussian: GaussianLike, noise: Floats) -> Estimate:
    """Unbiased estimate of `E_q[log p - log q]` from draws at antithetic `noise`."""
    return summarize(elbo_terms(evaluate, gaussian, noise))


def elbo_terms(evaluate: Evaluate, gaussian: GaussianLike, noise: Floats) -> Floats:
    """`log p - log q` averaged over each antithetic pair of draws, `(num // 2,)`.

    Both log densities are evaluated at the same draw, so that the Monte Carlo error vanishes as `q`
    approaches `p`. A draw of log density -inf makes the term of its pair -inf.
    """
    log_density, _ = evaluate(gaussian.transform(noise))
    terms = log_density - log_normal(noise, gaussian.log_det)
    return 0.5 * (terms[: len(terms) // 2] + terms[len(terms) // 2 :])


def summarize(terms: Floats) -> Estimate:
    """Mean of independent terms and its standard error; -inf and inf if any is not finite."""
    if not np.isfinite(terms).all():
        return Estimate(-np.inf, np.inf)
    return Estimate(float(terms.mean()), float(terms.std(ddof=1) / math.sqrt(len(terms))))


def significantly_better(other: Floats, terms: Floats) -> bool:
    """Whether ELBO terms from the same noise are higher by 0.02 nats plus four standard errors."""
    if not np.isfinite(terms).all():
        return bool(np.isfinite(other).all())
    gain = other - terms
    return bool(gain.mean() > _MIN_GAIN + 4 * gain.std() / math.sqrt(len(gain)))


def require_even(option: str, value: int) -> None:
    """Validates a number of draws that is split into antithetic pairs.

    Raises:
        VijaxError: it is odd or less than 4; names the option.
    """
    if value < 4 or value % 2:
        raise VijaxError(mismatch(option, "an even number of at least 4", repr(value)))


def antithetic(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Antithetic standard normal `(num, dim)`, `num` even: the second half is minus the first."""
    half = rng.standard_normal((num // 2, dim))
    return np.concatenate([half, -half])


def whitened(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Standard normal `(num, dim)` whose sample moments are as exact as `num` allows.

    Antithetic pairs make the mean zero. With enough pairs the sample covariance is made the
    identity; otherwise the pairs point in orthogonal directions, with random lengths.
    """
    half = rng.standard_normal((num // 2, dim))
    if num // 2 >= dim:
        factor = np.linalg.cholesky(half.T @ half / (num // 2))
        half = np.linalg.solve(factor, half.T).T
    else:
        lengths = np.linalg.norm(half, axis=1, keepdims=True)
        half = np.linalg.qr(half.T)[0].T * lengths
    return np.concatenate([half, -half])


def moment_matched(rng: np.random.Generator, num: int, dim: int) -> Floats:
    """Standard normal `(num, dim)` of mean zero, with second moments as exact as `num` allows.

    Like `whitened`, but with too few pairs for an identity covariance each coordinate has unit
    variance, which matters most for a mean-field Gaussian.
    """
    if num // 2 >= dim:
        return whitened(rng, num, dim)
    half = rng.standard_normal((num // 2, dim))
    half /= np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])
