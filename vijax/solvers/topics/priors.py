"""Priors that fit what is expected of the topics of documents and of the words of topics."""

from __future__ import annotations

import numpy as np

_STEPS = 20  # of Newton's method
_BOUNDS = 1e-4, 1e3  # of concentrations


def log_expectations(parameters: np.ndarray) -> np.ndarray:
    """`E log x` of Dirichlet distributions along the last axis, float64."""
    from scipy.special import digamma

    parameters = np.asarray(parameters, np.float64)
    return digamma(parameters) - digamma(parameters.sum(axis=-1, keepdims=True))


def divergences(parameters: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """`KL(Dir(parameters) || Dir(prior))` along the last axis, in nats, float64."""
    from scipy.special import gammaln

    def log_normalizers(x: np.ndarray) -> np.ndarray:
        return np.sum(gammaln(x), axis=-1) - gammaln(np.sum(x, axis=-1))

    parameters = np.asarray(parameters, np.float64)
    gain = np.sum((parameters - prior) * log_expectations(parameters), axis=-1)
    return gain - log_normalizers(parameters) + log_normalizers(np.asarray(prior, np.float64))


def dirichlet_prior(means: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The concentrations `(K,)` that maximize `E log Dir(x; alpha)`, an asymmetric prior.

    Newton's method in linear time: the Hessian is a diagonal matrix and one of rank one. Source:
    Latent Dirichlet Allocation, Blei, Ng and Jordan, 2003, appendix A.2.

    Args:
        means: of `E log x_k` over all of the prior's distributions, `(K,)`.
        alpha: where to start, `(K,)`.
    """
    from scipy.special import digamma, polygamma

    alpha = np.asarray(alpha, np.float64)
    for _ in range(_STEPS):
        slope = digamma(alpha.sum()) - digamma(alpha) + means
        diagonal, constant = -polygamma(1, alpha), polygamma(1, alpha.sum())
        shift = np.sum(slope / diagonal) / (1 / constant + np.sum(1 / diagonal))
        step = (slope - shift) / diagonal
        # a step that would leave the positive numbers halves a concentration instead
        alpha = np.clip(np.maximum(alpha - step, alpha / 2), *_BOUNDS)
    return alpha


def symmetric_prior(mean: float, size: int, eta: float) -> float:
    """The one concentration of all `size` entries that maximizes `E log Dir(x; eta)`.

    Args:
        mean: of `E log x` over entries and distributions.
        size: number of entries.
        eta: where to start.
    """
    from scipy.special import digamma, polygamma

    for _ in range(_STEPS):
        slope = digamma(size * eta) - digamma(eta) + mean
        curvature = size * polygamma(1, size * eta) - polygamma(1, eta)
        eta = float(np.clip(max(eta - slope / curvature, eta / 2), *_BOUNDS))
    return eta


def expected_tables(counts: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    """Tables of Chinese restaurants with expected counts of customers, summed over restaurants.

    A whole number of customers occupies `a (digamma(a + n) - digamma(a))` tables; fractions are
    chances of one more customer.

    Args:
        counts: `(D, K)`.
        concentration: `a`, `(K,)`.
    """
    from scipy.special import digamma

    whole = np.floor(counts)
    tables = digamma(concentration + whole) - digamma(concentration)
    tables += (counts - whole) / (concentration + whole)
    return np.sum(concentration * tables, axis=0)
