"""Comparison of models of the same data: evidence, cross-validation, stacking weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from vijax.posterior.evidence import Evidence
from vijax.posterior.loo import by_observation, leave_one_out
from vijax.posterior.posterior import Posterior
from vijax.posterior.table import table
from vijax.runtime.errors import VijaxError
from vijax.runtime.keys import RngKey, as_key, fold_in
from vijax.runtime.keywords import explain_keywords

_NO_LOO = (*[math.nan] * 4, 0, math.nan)  # the columns `elpd` to `weight` without likelihoods


class Row(NamedTuple):
    """Comparison figures of one model.

    Those from `elpd` to `weight` are `nan`, and `num_bad` 0, where a model has no pointwise
    likelihood.

    Attributes:
        name: of the model.
        log_evidence: log marginal likelihood by importance sampling, in nats.
        log_evidence_se: its standard error.
        log_bayes_factor: difference of its log evidence from the largest.
        log_bayes_factor_se: standard error of this difference.
        elpd: expected log predictive density of a new data set, by PSIS leave-one-out.
        elpd_se: its standard error over observations.
        elpd_diff: difference of its elpd from the largest.
        elpd_diff_se: standard error of this difference, over paired observations.
        num_bad: observations whose Pareto k-hat is too large for `elpd` to be reliable.
        weight: stacking weight.
    """

    name: str
    log_evidence: float
    log_evidence_se: float
    log_bayes_factor: float
    log_bayes_factor_se: float
    elpd: float
    elpd_se: float
    elpd_diff: float
    elpd_diff_se: float
    num_bad: int
    weight: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of models, highest expected log predictive density first; prints as a table.

    Attributes:
        rows: one for each model.
        note: why there is no expected log predictive density, so that the order is that of the
            evidence; empty where there is.
    """

    rows: tuple[Row, ...]
    note: str = ""

    def __getitem__(self, name: str) -> Row:
        """The row of a model."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is not in this comparison: {[row.name for row in self.rows]}")

    def __str__(self) -> str:
        names = "log evidence,SE,log BF,SE,elpd,SE,diff,SE,bad k,weight"
        lines: list[tuple[str, ...]] = [("", *names.split(","))]
        for row in self.rows:
            numbers = ["-" if math.isnan(value) else f"{value:.2f}" for value in row[1:]]
            numbers[-2] = "-" if math.isnan(row.elpd) else str(row.num_bad)
            lines.append((row.name, *numbers))
        return f"{table(lines)}\n{self.note}".rstrip()


@explain_keywords
def compare(
    posteriors: Mapping[str, Posterior], *, num_draws: int = 4000, rng_key: RngKey = 0
) -> Comparison:
    """Compares models of the same data.

    The difference of two log evidences is the log Bayes factor, which depends on the priors.
    Leave-one-out cross-validation estimates the predictive density of each observation given the
    others, and stacking weights maximize that of a mixture of the models. Draws are those of
    `posterior.sample`. Sources: Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC, Vehtari, Gelman, Gabry, 2017; Using stacking to average Bayesian
    predictive distributions, Yao, Vehtari, Simpson, Gelman, 2018.

    If a model has no observed site (a likelihood in `numpyro.factor`, `from_log_density`), there
    are no pointwise likelihoods to compare: models are ordered by their evidence alone.

    Args:
        posteriors: by name, two or more full-batch fits with guides that have a density.
        num_draws: number of draws for each estimate.
        rng_key: an int, a JAX key or a legacy key.

    Returns:
        A `Comparison`; `.rows` holds the numbers.

    Raises:
        VijaxError: posteriors are not named, there are fewer than two, or numbers of observations
            differ.
        GuideError: one of them has no importance weights.
    """
    if not isinstance(posteriors, Mapping):
        raise VijaxError(
            "compare: expected posteriors by name, {'one': first, 'other': second}, got "
            f"{type(posteriors).__name__}."
        )
    if len(posteriors) < 2:
        raise VijaxError(f"compare: expected two or more posteriors, got {list(posteriors)}.")
    key = as_key(rng_key)
    found = {}
    for name, posterior in posteriors.items():
        evidence = posterior.log_evidence(rng_key=fold_in(key, 0), num_draws=num_draws)
        assert isinstance(evidence, Evidence)
        found[name] = evidence
    best = max(found.values(), key=lambda one: one.value)
    unobserved = [
        name for name, one in posteriors.items() if not one._result.target.structure.observed
    ]
    loo = (
        dict.fromkeys(posteriors, _NO_LOO)
        if unobserved
        else _columns(_pointwise(posteriors, fold_in(key, 1), num_draws))
    )
    rows = []
    for name, one in found.items():
        factor_se = 0.0 if one is best else math.hypot(one.se, best.se)
        rows.append(Row(name, one.value, one.se, one.value - best.value, factor_se, *loo[name]))
    if not unobserved:
        return Comparison(tuple(sorted(rows, key=lambda row: -row.elpd)))
    note = (
        f"No elpd: {', '.join(map(repr, unobserved))} without observed sites, hence without "
        "pointwise likelihoods; ordered by log evidence."
    )
    return Comparison(tuple(sorted(rows, key=lambda row: -row.log_evidence)), note)


def _pointwise(
    posteriors: Mapping[str, Posterior], key: Array, num_draws: int
) -> dict[str, np.ndarray]:
    """By model, the log likelihood of every observation, `(num_draws, num_rows)`."""
    pointwise = {
        name: by_observation(posterior.log_likelihood(num_draws, rng_key=key))
        for name, posterior in posteriors.items()
    }
    counts = {name: values.shape[1] for name, values in pointwise.items()}
    if len(set(counts.values())) > 1:
        raise VijaxError(
            f"compare: expected models of the same observations, got {counts} observations. Fit "
            "every model to the same data."
        )
    return pointwise


def _columns(pointwise: Mapping[str, np.ndarray]) -> dict[str, tuple[Any, ...]]:
    """Columns `elpd` to `weight` by model, from log likelihoods `(num_draws, num_rows)`."""
    results, weights = leave_one_out(pointwise)
    out = {}
    elpds = {name: np.ravel(one.elpd_i) for name, one in results.items()}
    best = max(elpds, key=lambda name: elpds[name].sum())
    for name, one in results.items():
        difference = elpds[name] - elpds[best]
        bad = int(np.sum(np.ravel(one.pareto_k) > one.good_k))
        error = math.sqrt(difference.size) * float(difference.std())
        out[name] = (one.elpd, one.se, float(difference.sum()), error, bad, weights[name])
    return out
