"""Posterior summary: moments, intervals and Monte Carlo errors of every scalar."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np
from jax import Array

from vijax.posterior.result import FitResult
from vijax.posterior.sampling import constrained, proposals, unconstrained
from vijax.posterior.table import table
from vijax.runtime.checks import check_count
from vijax.runtime.keys import fold_in

_MEANING = {
    "certified": "the guide's draws can be used as they are",
    "corrected": "the variational approximation is inaccurate; these estimates use corrected draws",
    "approximate": "accuracy not verified; see report()",
    "failed": "do not use; see report()",
}
_MAX_SHOWN = 10  # scalars of a site up to which a printed summary shows all
_NUM_ENDS = 3  # scalars shown at either end of larger sites


class Row(NamedTuple):
    """One scalar of the posterior.

    Attributes:
        name: site and index.
        mean: posterior mean, of corrected draws where the status is `"corrected"`.
        sd: posterior standard deviation.
        low: lower end of the equal-tailed interval.
        high: upper end.
        mcse: Monte Carlo standard error of `mean`.
        guide_mean: mean of the guide's draws.
        guide_sd: their standard deviation.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    mcse: float
    guide_mean: float
    guide_sd: float


class Weighted(NamedTuple):
    """Weighted draws by site.

    Attributes:
        values: by site, `(num_draws, *shape)`.
        weights: `(num_draws,)`, summing to one; `None` for equal weights.
        error: standard error of a mean, in standard deviations, of dependent draws.
    """

    values: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    error: float = 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A posterior summary; `str()` is a table with large sites abridged.

    Attributes:
        rows: one for each scalar, in the model's order.
        ci_prob: probability of the interval.
        status: the posterior's status.
    """

    rows: tuple[Row, ...]
    ci_prob: float
    status: str

    def __getitem__(self, name: str) -> Row:
        """The row of a scalar, `summary["theta[3]"]`."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is not in this summary; it has {[row.name for row in self.rows]}")

    def __str__(self) -> str:
        tail = 50 * (1 - self.ci_prob)
        interval = (f"{tail:.1f}%", f"{100 - tail:.1f}%")
        header = ("", "mean", "sd", *interval, "mcse", "guide mean", "guide sd")
        lines: list[tuple[str, ...]] = [header]
        for site, group in itertools.groupby(self.rows, lambda row: row.name.partition("[")[0]):
            lines += _abridged(site, [(row.name, *map(_number, row[1:])) for row in group])
        return f"{table(lines)}\nstatus: {self.status} ({_MEANING[self.status]})"

    __repr__ = __str__


def summary(result: FitResult, key: Array, num_draws: int, ci_prob: float) -> Summary:
    """See `Posterior.summary`."""
    if not 0 < ci_prob < 1:
        raise ValueError(f"ci_prob: expected a number between 0 and 1, got {ci_prob}.")
    check_count("num_draws", num_draws)
    assessment, corrected = result.assessment, result.status == "corrected"
    weighted = assessment.importance is not None and assessment.chain_states is None
    if weighted and (corrected or result.missing):  # without the data, draws of the assessment
        draws, found = proposals(result, key, num_draws)
        guide = constrained(result, draws.z, fold_in(key, 2))
        posterior = Weighted(guide, np.exp(found.log_weights) if corrected else None)
        return summarize(posterior, guide, ci_prob, result.status)
    z = unconstrained(result, key, num_draws, corrected=False)
    guide = constrained(result, z, fold_in(key, 2))
    posterior = Weighted(guide)
    if corrected and assessment.chain_states is not None:
        z = unconstrained(result, key, num_draws, corrected=True)
        error = 0.0 if assessment.check is None else assessment.check.error
        posterior = Weighted(constrained(result, z, fold_in(key, 3)), error=error)
    return summarize(posterior, guide, ci_prob, result.status)


def summarize(
    posterior: Weighted, guide: dict[str, np.ndarray], ci_prob: float, status: str
) -> Summary:
    """Summarizes posterior draws, with the moments of the guide's draws for comparison."""
    tail = (1 - ci_prob) / 2
    rows = []
    for site, draws in posterior.values.items():
        columns = _columns(draws, posterior.weights, posterior.error, (tail, 1 - tail))
        flat = guide[site].reshape(len(guide[site]), -1).astype(np.float64)
        columns = (*columns, flat.mean(0), flat.std(0, ddof=1))
        for i, index in enumerate(np.ndindex(draws.shape[1:])):
            name = f"{site}[{','.join(map(str, index))}]" if index else site
            rows.append(Row(name, *(float(column[i]) for column in columns)))
    return Summary(tuple(rows), ci_prob, status)


def _columns(
    draws: np.ndarray, weights: np.ndarray | None, error: float, levels: tuple[float, float]
) -> tuple[np.ndarray, ...]:
    """Mean, sd, two quantiles and standard error of the mean, of every scalar of a site."""
    flat = draws.reshape(len(draws), -1).astype(np.float64)
    if weights is None:
        low, high = np.quantile(flat, levels, axis=0)
        mean, sd = flat.mean(0), flat.std(0, ddof=1)
        return mean, sd, low, high, sd * max(error, 1 / math.sqrt(len(flat)))
    mean = weights @ flat
    square = (flat - mean) ** 2
    order = np.argsort(flat, axis=0)
    ranked = np.cumsum(weights[order], axis=0)
    rows = [np.minimum((ranked < level).sum(axis=0), len(flat) - 1) for level in levels]
    picked = [np.take_along_axis(order, row[None], axis=0) for row in rows]
    low, high = (np.take_along_axis(flat, pick, axis=0)[0] for pick in picked)
    return mean, np.sqrt(weights @ square), low, high, np.sqrt(weights**2 @ square)


def _abridged(site: str, lines: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The lines of one site, only the first and the last of many."""
    if len(lines) <= _MAX_SHOWN:
        return lines
    note = f"{site}: {len(lines) - 2 * _NUM_ENDS} more"
    return [*lines[:_NUM_ENDS], (note, *[""] * (len(lines[0]) - 1)), *lines[-_NUM_ENDS:]]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
