"""Log predictive densities of rows, or of groups of rows, that a posterior was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax import Array

from vijax.contracts import Batch
from vijax.diagnostics import psis
from vijax.posterior import draws, pointwise, sampling
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays
from vijax.runtime.keys import fold_in

_ELEMENTS = 2**24  # of the log likelihoods that are held at a time
_EQUAL = 1e-3  # relative range of the terms of a mean below which they differ by rounding only
_COLUMNS = 256  # of which Pareto shapes are estimated at a time


class Rows(NamedTuple):
    """Rows of a plate, and what is scored of them.

    Attributes:
        axes: by observed site, the axis of the rows among its batch dimensions, from the right.
        units: of each row the number of the unit that it belongs to, `(num_rows,)`: a row, or a
            group that is scored as a whole.
    """

    axes: dict[str, int]
    units: np.ndarray

    @property
    def num_units(self) -> int:
        """Number of units, all of which have rows."""
        return int(self.units.max()) + 1


class Scores(NamedTuple):
    """Log predictive densities of some units, by one set of draws.

    Attributes:
        log_density: `log E[p(y_u | z)]` of each unit, `(units,)`.
        influence: of each draw on their sum, `(num_draws,)`; the Monte Carlo variance of the sum is
            the mean of its square over the number of draws.
        errors: Monte Carlo standard error of each unit, `(units,)`.
        khat: Pareto k-hat of the terms of each mean, `(units,)`; above 0.7 it may be dominated by
            draws that were not drawn, and its error be larger.
    """

    log_density: np.ndarray
    influence: np.ndarray
    errors: np.ndarray
    khat: np.ndarray


def different_draws(result: FitResult, key: Array, num_draws: int) -> Arrays:
    """Up to `num_draws` draws in unconstrained space, none of them repeated.

    Discrete sites that are drawn, too, are drawn given the data of the fit only.
    """
    states = result.assessment.chain_states
    if result.corrects and states is not None:
        num_draws = min(num_draws, len(next(iter(states.values()))))
    z = sampling.unconstrained(result, key, num_draws)
    return draws.with_discrete(result, z, fold_in(key, 2))


def blocks(
    result: FitResult, data: Batch, z: Arrays, rows: Rows, chosen: np.ndarray
) -> Iterator[np.ndarray]:
    """Log likelihoods of the units of chosen rows, `(draws, units)`, in blocks of draws.

    Observed sites of a row, and their other batch dimensions, are added up.

    Args:
        result: whose target and parameters are used.
        data: its data.
        z: draws.
        rows: all rows.
        chosen: numbers of some, all those of a unit.
    """
    order = chosen[np.argsort(rows.units[chosen], kind="stable")]
    starts = np.unique(rows.units[order], return_index=True)[1]
    num_draws, num_rows = len(next(iter(z.values()))), len(rows.units)
    size = max(16, _ELEMENTS // num_rows)
    for start in range(0, num_draws, size):
        part = {name: value[start : start + size] for name, value in z.items()}
        found = pointwise.log_likelihood(result, data, part)
        total = 0.0
        for name, axis in rows.axes.items():
            values = np.moveaxis(found[name], axis, -1)[..., order].astype(np.float64)
            total = total + values.reshape(len(values), -1, len(order)).sum(axis=1)
        yield np.add.reduceat(total, starts, axis=1)


def log_means(parts: Iterator[np.ndarray]) -> np.ndarray:
    """`log mean_s exp(values)` of each column of `(draws, columns)` in blocks."""
    total, num = np.array(-np.inf), 0
    for part in parts:
        total = np.logaddexp(total, np.logaddexp.reduce(part, axis=0))
        num += len(part)
    return total - np.log(num)


def scores(values: np.ndarray, log_weights: np.ndarray | None = None) -> Scores:
    """The scores of units by their log likelihoods `(num_draws, units)`.

    Args:
        values: log likelihoods.
        log_weights: of the draws, `(num_draws,)`, normalized; equal by default.
    """
    num_draws = len(values)
    if log_weights is None:
        log_weights = np.full(num_draws, -np.log(num_draws))
    terms = values + log_weights[:, None]
    log_density = np.logaddexp.reduce(terms, axis=0)
    with np.errstate(invalid="ignore"):  # a density of zero
        shares = np.exp(terms - log_density)
    deviations = shares - np.exp(log_weights)[:, None]
    influence, errors = num_draws * deviations.sum(axis=1), np.sqrt((deviations**2).sum(axis=0))
    return Scores(log_density, influence, errors, _khat(shares))


def weighted_scores(values: np.ndarray) -> tuple[Scores, float]:
    """Scores of units given the data without them, by draws of the posterior given all data.

    Pareto-smoothed importance sampling with the weights `1 / p(y_fold | z)`. Source: Practical
    Bayesian model evaluation using leave-one-out cross-validation and WAIC, Vehtari, Gelman and
    Gabry, 2017.

    Args:
        values: log likelihoods of all units of the fold, `(num_draws, units)`.

    Returns:
        The scores, and k-hat of the weights.
    """
    log_weights, khat = psis.smooth(-values.sum(axis=1))
    khat = np.inf if np.isnan(khat) else khat
    found = scores(values, log_weights - np.logaddexp.reduce(log_weights))
    return found._replace(khat=np.full(values.shape[1], khat)), khat


def _khat(shares: np.ndarray) -> np.ndarray:
    """Pareto k-hat of each column of `(num_draws, columns)` shares in a mean."""
    starts = range(0, shares.shape[1], _COLUMNS)
    parts = [psis.tail_shapes(shares[:, start : start + _COLUMNS]) for start in starts]
    equal = np.ptp(shares, axis=0) * len(shares) < _EQUAL
    return np.where(equal, -np.inf, np.concatenate(parts))
