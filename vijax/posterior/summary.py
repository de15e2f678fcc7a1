"""The posterior summary: moments, intervals and errors of every scalar."""

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
    "corrected": "the guide is off, these figures are mended",
    "approximate": "accuracy is not shown; see report()",
    "failed": "do not use; see report()",
}
_SHOWN = 10  # scalars of a site that a printed summary shows in full
_ENDS = 3  # of more, how many at either end


class Row(NamedTuple):
    """One scalar of the posterior.

    Attributes:
        name: site and index.
        mean: mean of the answer: corrected where the status says so, else the guide's.
        sd: its standard deviation.
        low: lower end of its equal-tailed interval.
        high: its upper end.
        mcse: Monte Carlo standard error of `mean`.
        guide_mean: mean of the guide's own draws.
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
    """Draws by site, `(num_draws, *shape)`, and what each of them counts for.

    Attributes:
        values: by site.
        weights: `(num_draws,)`, summing to one; `None` if all draws count alike.
        error: standard error of a mean, in standard deviations, where draws depend on one another.
    """

    values: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    error: float = 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A posterior summary; `str()` of it is a table, large sites abridged.

    Attributes:
        rows: one a scalar, in the model's order.
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
    assessed, corrected = result.assessment, result.status == "corrected"
    weighted = assessed.importance is not None and assessed.chain_states is None
    if weighted and (corrected or result.missing):  # without the data draws are those of the fit
        draws, found = proposals(result, key, num_draws)
        own = constrained(result, draws.z, fold_in(key, 2))
        answer = Weighted(own, np.exp(found.log_weights) if corrected else None)
        return summarize(answer, own, ci_prob, result.status)
    z = unconstrained(result, key, num_draws, corrected=False)
    own = constrained(result, z, fold_in(key, 2))
    answer = Weighted(own)
    if corrected and assessed.check is not None:
        z = unconstrained(result, key, num_draws, corrected=True)
        answer = Weighted(constrained(result, z, fold_in(key, 3)), error=assessed.check.error)
    return summarize(answer, own, ci_prob, result.status)


def summarize(
    answer: Weighted, guide: dict[str, np.ndarray], ci_prob: float, status: str
) -> Summary:
    """Summarizes an answer beside the guide's own draws."""
    tail = (1 - ci_prob) / 2
    rows = []
    for site, draws in answer.values.items():
        columns = _columns(draws, answer.weights, answer.error, (tail, 1 - tail))
        own = guide[site].reshape(len(guide[site]), -1).astype(np.float64)
        columns = (*columns, own.mean(0), own.std(0, ddof=1))
        for i, index in enumerate(np.ndindex(draws.shape[1:])):
            name = f"{site}[{','.join(map(str, index))}]" if index else site
            rows.append(Row(name, *(float(column[i]) for column in columns)))
    return Summary(tuple(rows), ci_prob, status)


def _columns(
    draws: np.ndarray, weights: np.ndarray | None, error: float, levels: tuple[float, float]
) -> tuple[np.ndarray, ...]:
    """Mean, sd, two quantiles and the error of the mean, for every scalar of a site."""
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
    """The lines of one site, without its middle where they are many."""
    if len(lines) <= _SHOWN:
        return lines
    note = f"{site}: {len(lines) - 2 * _ENDS} more"
    return [*lines[:_ENDS], (note, *[""] * (len(lines[0]) - 1)), *lines[-_ENDS:]]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
