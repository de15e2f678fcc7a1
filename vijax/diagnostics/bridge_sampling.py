"""Bridge sampling: the log evidence from draws of the guide and of the posterior.

With `l = p / q` the ratio of the unnormalized posterior to the guide and shares `s1`, `s2` of the
draws of posterior and guide, the evidence `r` solves

    r = mean over q of [l / (s1 l + s2 r)] / mean over the posterior of [1 / (s1 l + s2 r)].

Importance sampling needs a guide that covers the posterior: where its tails are lighter, the
largest weights are never drawn, and no spread of those drawn shows it. Bridge sampling needs
overlap only, since the posterior's draws show what the guide does not cover. Sources: Simulating
Ratios of Normalizing Constants via a Simple Identity, Meng, Wong, 1996; standard error: Estimating
Marginal Likelihoods for Mixture and Markov Switching Models Using Bridge Sampling Techniques,
Frühwirth-Schnatter, 2004.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_MAX_STEPS = 1000
_TOLERANCE = 1e-10  # nats


class Bridge(NamedTuple):
    """The log evidence in nats and its standard error."""

    log_evidence: float
    se: float


def bridge_sampling(
    of_guide: np.ndarray,
    of_posterior: np.ndarray,
    effective: float,
    chain: np.ndarray | None = None,
) -> Bridge:
    """The log evidence by bridge sampling.

    The standard error counts the draws of one chain as one cluster, if these are given: few chains
    reach a tail that the guide does not cover, and stay there for long.

    Args:
        of_guide: `log p - log q` at independent draws of the guide, `(num,)`; `-inf` where the
            posterior has no density.
        of_posterior: the same at draws of the posterior, `(num,)`; `inf` where the guide has none.
        effective: number of independent draws that those of the posterior are worth.
        chain: the chain of each of these, `(num,)` integers from 0.

    Returns:
        The estimate; `-inf` and `inf` where guide and posterior share no draw.
    """
    log_s1 = math.log(effective / (effective + of_guide.size))
    log_s2 = math.log(of_guide.size / (effective + of_guide.size))
    shared = of_posterior[np.isfinite(of_posterior)]
    if not (shared.size and np.isfinite(of_guide).any()):
        return Bridge(-math.inf, math.inf)
    log_r = float(np.median(shared))
    for _ in range(_MAX_STEPS):
        over_guide = of_guide - np.logaddexp(log_s1 + of_guide, log_s2 + log_r)
        over_posterior = -np.logaddexp(log_s1 + of_posterior, log_s2 + log_r)
        new = _log_mean(over_guide) - _log_mean(over_posterior)
        change, log_r = abs(new - log_r), new
        if not change > _TOLERANCE:
            break
    variance = _relative_variance(over_guide) / of_guide.size
    if chain is None:
        variance += _relative_variance(over_posterior) / effective
    else:
        values = np.exp(over_posterior - over_posterior.max())
        means = np.bincount(chain, values) / np.bincount(chain)
        variance += float(means.var() / means.mean() ** 2) / means.size
    return Bridge(log_r, math.sqrt(variance))


def _log_mean(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values) - math.log(values.size))


def _relative_variance(log_values: np.ndarray) -> float:
    """Variance of `exp(log_values)` over the square of its mean."""
    values = np.exp(log_values - log_values.max())
    return float(values.var() / values.mean() ** 2)
