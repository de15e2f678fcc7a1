"""Comparison of models of the same data: evidence, cross-validation, stacking weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vijax.posterior.evidence import Evidence
from vijax.posterior.loo import by_observation, leave_one_out
from vijax.posterior.posterior import Posterior
from vijax.posterior.table import table
from vijax.runtime.errors import VijaxError
from vijax.runtime.keys import RngKey, as_key, fold_in
from vijax.runtime.keywords import explain_keywords


class Row(NamedTuple):
    """Comparison figures of one model.

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
    """

    rows: tuple[Row, ...]

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
            numbers = (f"{value:.2f}" for value in row[1:9])
            lines.append((row.name, *numbers, str(row.num_bad), f"{row.weight:.2f}"))
        return table(lines)


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
    pointwise, found = {}, {}
    for name, posterior in posteriors.items():
        evidence = posterior.log_evidence(rng_key=fold_in(key, 0), num_draws=num_draws)
        assert isinstance(evidence, Evidence)
        found[name] = evidence
        pointwise[name] = by_observation(
            posterior.log_likelihood(num_draws, rng_key=fold_in(key, 1))
        )
    counts = {name: values.shape[1] for name, values in pointwise.items()}
    if len(set(counts.values())) > 1:
        raise VijaxError(
            f"compare: expected models of the same observations, got {counts} observations. Fit "
            "every model to the same data."
        )
    best = max(found.values(), key=lambda one: one.value)
    rows = []
    for name, loo in _columns(pointwise).items():
        one = found[name]
        factor_se = 0.0 if one is best else math.hypot(one.se, best.se)
        rows.append(Row(name, one.value, one.se, one.value - best.value, factor_se, *loo))
    return Comparison(tuple(sorted(rows, key=lambda row: -row.elpd)))


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
