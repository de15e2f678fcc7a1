"""The log evidence of single rows, by importance weights of draws from an amortized guide."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax.contracts import Batch, Guide, PyTree, Target, Variables
from vijax.posterior.local_rows import LocalRows, draw_latents, local_parts, local_rows, row_terms
from vijax.posterior.refinement import Block, check_refinable, refined
from vijax.posterior.result import FitResult
from vijax.runtime.checks import check_count
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import fold_in

_HOST_ELEMENTS = 2**22  # weights that are held at a time
_DEVICE_ELEMENTS = 2**21  # of data and latents, times draws, that are evaluated at once
_REFINEMENT = 2**31 - 1  # no number of a draw


class RowEvidence(NamedTuple):
    """Estimates of the log evidence `log p(x_i)` of each row, in nats.

    Attributes:
        values: `log 1/K sum_k w_ik`, `(rows,)`. In expectation below `log p(x_i)`, by about
            `se^2 / 2`.
        se: Monte Carlo standard error of each, by the delta method: the relative standard error of
            the mean weight.
        ess: effective number of draws of each row, `(sum_k w_ik)^2 / sum_k w_ik^2`. With few,
            `values` is only a lower bound, and `se` too small.
        mean: the mean of `values`: the test log likelihood of a row.
        mean_se: its Monte Carlo standard error for these rows. That of the mean over rows like
            these is `values.std() / sqrt(rows)`.
        bias: first-order estimate of the bias of `mean`, `-mean(se^2) / 2`.
        bounds: the ELBO of each row, `1/K sum_k log w_ik`, `(rows,)`. Their increase by
            `refine_steps` is the amortization gap; `values - bounds` is the divergence of `q` from
            the row's posterior.
    """

    values: np.ndarray
    se: np.ndarray
    ess: np.ndarray
    mean: float
    mean_se: float
    bias: float
    bounds: np.ndarray

    def __str__(self) -> str:
        number = f"{len(self.values):,} row{'s' * (len(self.values) != 1)}"
        return f"{self.mean:.3f} ± {self.mean_se:.2g} nats a row, the mean of {number}"


def log_evidence_rows(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    refine_steps: int | None = None,
) -> RowEvidence:
    """See `Posterior.log_evidence_rows`."""
    num_draws = check_count("num_draws", num_draws)
    num_steps = check_count("refine_steps", refine_steps, optional=True)
    rows = local_rows(result, "log_evidence_rows", args, kwargs)
    if num_steps:
        check_refinable(rows.result)
    by_draw, found = np.zeros(num_draws), []
    for log_weights in _blocks(rows, key, num_draws, num_steps):
        values, relative, ess = _averages(log_weights)
        by_draw += relative.sum(axis=1)
        found.append((values, ess, log_weights.mean(axis=0)))
    values, ess, bounds = (np.concatenate(parts) for parts in zip(*found, strict=True))
    se = np.sqrt(np.maximum(num_draws / ess - 1, 0) / max(num_draws - 1, 1))
    se = np.where(np.isfinite(values) & (num_draws > 1), se, np.inf)
    # draws of latents that rows share make their errors dependent
    mean_se = by_draw.std(ddof=1) / num_draws**0.5 / len(values) if num_draws > 1 else math.inf
    mean_se = float(mean_se) if np.isfinite(values).all() else math.inf
    mean, bias = float(values.mean()), float(-np.mean(se**2) / 2)
    eps = np.finfo(jax.dtypes.canonicalize_dtype(float)).eps  # densities are rounded
    se = np.hypot(se, eps * np.abs(values))
    return RowEvidence(values, se, ess, mean, math.hypot(mean_se, eps * mean), bias, bounds)


def _blocks(rows: LocalRows, key: Array, num_draws: int, refine_steps: int) -> Any:
    """Log weights of each block of rows, `(num_draws, rows)` in double precision."""
    on_device = _DEVICE_ELEMENTS // rows.row_elements
    size = max(1, min(_HOST_ELEMENTS // num_draws, on_device, rows.num_rows))
    fit, shared_key = rows.result, fold_in(key, 0)
    for number, (target, batch, new) in enumerate(rows.blocks(size)):
        used = target.subsampled.get(rows.plate, rows.num_rows)
        at_once = max(1, min(num_draws, on_device // used))
        numbers = (num_draws, at_once, refine_steps)
        program = target.program(_log_weights, fit.guide, rows.plate, *numbers)
        keys = shared_key, fold_in(fold_in(key, 1), number)
        found = on_host(program(fit.variables, fit.mutable, *keys, batch))
        log_weights = np.asarray(found, np.float64)[:, :new]
        bad = np.isnan(log_weights) | (log_weights == np.inf)
        yield np.where(bad, -np.inf, log_weights)


def _averages(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By row the log mean weight, weights relative to their mean, effective number of draws."""
    peak = np.max(log_weights, axis=0)
    weights = np.exp(log_weights - np.where(np.isfinite(peak), peak, 0.0))
    mean = weights.mean(axis=0)
    with np.errstate(divide="ignore"):
        values = np.where(mean > 0, peak + np.log(mean), -np.inf)
    relative = weights / np.where(mean > 0, mean, 1.0)
    ess = len(weights) / np.maximum(np.mean(relative**2, axis=0), 1.0)
    return values, relative, np.where(mean > 0, ess, 1.0)


def _log_weights(
    target: Target,
    guide: Guide,
    plate: str,
    num_draws: int,
    at_once: int,
    refine_steps: int,
    variables: Variables,
    mutable: dict[str, PyTree],
    shared_key: Array,
    key: Array,
    batch: Batch,
) -> Array:
    """`log p(x_i, z_ik | shared latents) - log q(z_ik | x_i)`, `(num_draws, rows)`."""
    parts = local_parts(guide, variables.guide, target.space, batch)
    if refine_steps:
        block = Block(target, plate, variables, mutable, batch)
        parts = refined(parts, block, jax.random.fold_in(key, _REFINEMENT), refine_steps)
    info, scale = target.term_info(batch), parts.local[0].space.sites[0].scale

    def one(number: Array) -> Array:
        z, log_q = draw_latents(parts, plate, shared_key, key, number, batch)
        values = target.terms(z, batch, variables.model, mutable).values
        return row_terms(values, info, plate, scale) - log_q

    numbers = jnp.arange(-(-num_draws // at_once) * at_once).reshape(-1, at_once)
    found = lax.map(jax.vmap(one), numbers)
    return found.reshape(numbers.size, -1)[:num_draws]
