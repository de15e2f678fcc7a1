"""Log evidence (log marginal likelihood) of a model: estimate, lower and upper bounds."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from jax import Array

from vijax.diagnostics import importance as weights
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import proposals
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError

EvidenceMethod = Literal[
    "importance", "bridge", "enumeration", "elbo", "iwae", "cubo", "expectation_propagation"
]
METHODS = (*get_args(EvidenceMethod), "bracket")
_NEEDED = {
    "bridge": "draws of the posterior: a Gaussian or a mixture that short chains correct",
    "enumeration": "discrete sites only, with few joint values",
    "expectation_propagation": "a fit with algorithm='expectation_propagation'",
}
_ORDER = 2  # of the chi upper bound


class Evidence(NamedTuple):
    """An estimate of, or a bound on, the log evidence `log p(data)`.

    Attributes:
        value: in nats.
        se: standard error in nats.
        kind: whether its expectation is the log evidence, up to a bias that vanishes with the
            number of draws, or a bound on it, or neither, as that of expectation propagation.
    """

    value: float
    se: float
    kind: Literal["estimate", "lower bound", "upper bound", "approximation, not a bound"]

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.2g} nats ({self.kind})"


class Bracket(NamedTuple):
    """A lower and an upper bound on the log evidence."""

    lower: Evidence
    upper: Evidence

    def __str__(self) -> str:
        return f"{self.lower} to {self.upper}"


def log_evidence(
    result: FitResult, method: str | None, key: Array, num_draws: int, num_particles: int
) -> Evidence | Bracket:
    """See `Posterior.log_evidence`."""
    found = result.assessment.importance
    method = method or ("importance" if found is None else found.method)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}.")
    check_count("num_particles", num_particles)
    if method in _NEEDED:
        return _of_the_fit(result, method)
    draws, _ = proposals(result, key, check_count("num_draws", num_draws), fresh=True)
    estimate = evidence(draws.log_weights, method, num_particles)
    if isinstance(estimate, Bracket):
        return estimate
    return estimate._replace(se=math.hypot(estimate.se, result.assessment.diagnostics.rounding))


def _of_the_fit(result: FitResult, method: str) -> Evidence:
    """The estimate that was made with the assessment of the fit."""
    if method == "expectation_propagation" and result.sites is not None:
        return Evidence(result.sites.log_evidence, 0.0, "approximation, not a bound")
    found = result.assessment.importance
    if found is None or found.method != method:
        raise GuideError(
            f"log_evidence: method={method!r} needs {_NEEDED[method]}, got {result.guide!r}, "
            f"{result.status}. Use method='importance'."
        )
    return Evidence(found.log_evidence, found.log_evidence_se, "estimate")


def evidence(log_weights: np.ndarray, method: str, num_particles: int) -> Evidence | Bracket:
    """The log evidence from `log p - log q` of independent draws of a guide, `(num_draws,)`.

    With `w = p / q`: `"importance"` is `log mean w`; `"elbo"` is `mean log w`; `"iwae"` the mean
    over groups of `num_particles` draws of the log mean weight; `"cubo"` is
    `log(mean w^2) / 2`; and `"bracket"` the last two. Standard errors are by the delta method; that
    of an estimate is infinite where k-hat shows that the weights are unreliable.

    Raises:
        ValueError: the method is unknown, or there are fewer than two groups of draws.
    """
    if method == "bracket":
        lower = evidence(log_weights, "iwae", num_particles)
        upper = evidence(log_weights, "cubo", num_particles)
        assert isinstance(lower, Evidence)
        assert isinstance(upper, Evidence)
        return Bracket(lower, upper)
    if method == "importance":
        found = weights.importance(log_weights)
        return Evidence(found.log_evidence, found.log_evidence_se, "estimate")
    if method == "elbo":
        return Evidence(*weights.elbo(log_weights), "lower bound")
    if method == "cubo":
        value, se = _log_mean(_ORDER * log_weights)
        return Evidence(value / _ORDER, se / _ORDER, "upper bound")
    if method == "iwae":
        return Evidence(*weights.elbo(_groups(log_weights, num_particles)), "lower bound")
    raise ValueError(f"method: expected one of {METHODS}, got {method!r}.")


def _groups(log_weights: np.ndarray, size: int) -> np.ndarray:
    """Log mean weights of consecutive groups of `size` draws, `(num_groups,)`."""
    num_groups = log_weights.size // size
    if num_groups < 2:
        raise ValueError(
            f"num_particles: expected at most {log_weights.size // 2}, half the number of draws, "
            f"got {size}. Increase num_draws."
        )
    grouped = log_weights[: num_groups * size].reshape(num_groups, size)
    return np.logaddexp.reduce(grouped, axis=1) - math.log(size)


def _log_mean(log_values: np.ndarray) -> tuple[float, float]:
    """`log(mean(exp(log_values)))` and its standard error; `-inf`, `inf` if none is finite."""
    peak = log_values.max()
    if not math.isfinite(peak):
        return -math.inf, math.inf
    values = np.exp(log_values - peak)
    relative = values.std(ddof=1) / values.mean() / math.sqrt(values.size)
    return float(peak + math.log(values.mean())), float(relative)
