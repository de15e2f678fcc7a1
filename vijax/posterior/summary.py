"""Posterior summary: moments, intervals and Monte Carlo errors of every scalar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jax import Array

from vijax.posterior.label_switching import remarks
from vijax.posterior.labels import element_labels
from vijax.posterior.model_state import ModelState
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import constrained, proposals, unconstrained
from vijax.posterior.selection import select
from vijax.runtime.checks import check_count
from vijax.runtime.errors import mismatch
from vijax.runtime.keys import fold_in

if TYPE_CHECKING:
    from vijax.posterior.tables import Summary


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


def summary(
    result: FitResult,
    sites: str | Iterable[str] | None,
    ci_prob: float,
    round_to: int | None,
    num_draws: int,
    key: Array,
) -> Summary:
    """See `Posterior.summary`."""
    _check(ci_prob, round_to)
    check_count("num_draws", num_draws)
    posterior, guide = _draws(result, key, num_draws)
    labels = {
        site: element_labels(result, site, draws.shape[1:])
        for site, draws in posterior.values.items()
    }
    out = summarize(posterior, guide, labels, sites, ci_prob, round_to, result.status)
    out.attrs["remarks"] = remarks(result)
    return out


def prior_summary(
    state: ModelState,
    draws: Mapping[str, np.ndarray],
    sites: str | Iterable[str] | None,
    ci_prob: float,
    round_to: int | None,
) -> Summary:
    """See `Prior.summary`."""
    _check(ci_prob, round_to)
    labels = {site: element_labels(state, site, x.shape[1:]) for site, x in draws.items()}
    return summarize(Weighted(dict(draws)), None, labels, sites, ci_prob, round_to, "prior")


def _check(ci_prob: Any, round_to: Any) -> None:
    if not isinstance(ci_prob, (int, float, np.number)) or not 0 < ci_prob < 1:
        raise ValueError(mismatch("ci_prob", "a number between 0 and 1", repr(ci_prob)))
    if round_to is not None and not isinstance(round_to, (int, np.integer)):
        raise ValueError(mismatch("round_to", "a number of decimals, or None", repr(round_to)))


def _draws(result: FitResult, key: Array, num_draws: int) -> tuple[Weighted, dict[str, np.ndarray]]:
    """Posterior draws, and draws of the guide by site."""
    assessment, corrected = result.assessment, result.corrects
    weighted = assessment.importance is not None and assessment.chain_states is None
    if weighted and (corrected or result.missing):  # without the data, draws of the assessment
        draws, found = proposals(result, key, num_draws)
        guide = constrained(result, draws.z, fold_in(key, 2))
        return Weighted(guide, np.exp(found.log_weights) if corrected else None), guide
    z = unconstrained(result, key, num_draws, corrected=False)
    guide = constrained(result, z, fold_in(key, 2))
    if not corrected or assessment.chain_states is None:
        return Weighted(guide), guide
    z = unconstrained(result, key, num_draws, corrected=True)
    error = 0.0 if assessment.check is None else assessment.check.error
    return Weighted(constrained(result, z, fold_in(key, 3)), error=error), guide


def summarize(
    posterior: Weighted,
    guide: Mapping[str, np.ndarray] | None,
    labels: Mapping[str, Sequence[str]],
    sites: str | Iterable[str] | None = None,
    ci_prob: float = 0.89,
    round_to: int | None = None,
    status: str = "certified",
) -> Summary:
    """Summarizes posterior draws.

    Args:
        posterior: the draws.
        guide: draws of the guide by site, `(num_draws, *shape)`, whose moments are shown, too;
            `None` where there is none.
        labels: names of the elements by site.
        sites: names that select some of them, see `select`.
        ci_prob: probability of the interval.
        round_to: number of decimals.
        status: of the fit.
    """
    from vijax.posterior.tables import Summary  # imports pandas, which is slow

    wanted = select(sites, labels)
    chosen = {*wanted}
    used = [site for site in labels if not chosen.isdisjoint(labels[site])]
    tail = 50 * (1 - ci_prob)
    interval = (f"{tail:g}%", f"{100 - tail:g}%")
    names = ("mean", "sd", *interval, "mcse", *(("guide_mean", "guide_sd") if guide else ()))
    parts = []
    for site in used:
        draws = posterior.values[site]
        levels = (tail / 100, 1 - tail / 100)
        of_posterior = _columns(draws, posterior.weights, posterior.error, levels)
        parts.append((*of_posterior, *(_moments(guide[site]) if guide else ())))
    positions = {label: i for i, label in enumerate(name for s in used for name in labels[s])}
    order = [positions[label] for label in wanted]
    columns = [np.concatenate(column)[order] for column in zip(*parts, strict=True)]
    if round_to is not None:
        columns = [np.round(column, round_to) for column in columns]
    out = Summary(dict(zip(names, columns, strict=True)), index=wanted)
    out.attrs |= {"status": status, "ci_prob": ci_prob, "decimals": round_to}
    return out


def _moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = draws.reshape(len(draws), -1).astype(np.float64)
    return flat.mean(0), flat.std(0, ddof=1)


def _columns(
    draws: np.ndarray, weights: np.ndarray | None, error: float, levels: tuple[float, float]
) -> tuple[np.ndarray, ...]:
    """Mean, sd, two quantiles and standard error of the mean, of every scalar of a site."""
    flat = draws.reshape(len(draws), -1).astype(np.float64)
    if weights is None:
        low, high = np.quantile(flat, levels, axis=0)
        mean, sd = _moments(draws)
        return mean, sd, low, high, sd * max(error, 1 / math.sqrt(len(flat)))
    mean = weights @ flat
    square = (flat - mean) ** 2
    order = np.argsort(flat, axis=0)
    ranked = np.cumsum(weights[order], axis=0)
    rows = [np.minimum((ranked < level).sum(axis=0), len(flat) - 1) for level in levels]
    picked = [np.take_along_axis(order, row[None], axis=0) for row in rows]
    low, high = (np.take_along_axis(flat, pick, axis=0)[0] for pick in picked)
    return mean, np.sqrt(weights @ square), low, high, np.sqrt(weights**2 @ square)
