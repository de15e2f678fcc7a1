"""Pointwise log likelihoods and predictive densities, of all rows or in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jax import Array

from vijax.contracts import Batch, Blocks, Data, Position, PyTree, Target
from vijax.contracts.over_points import over_points
from vijax.diagnostics.importance import block_size
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays, map_blocks

_NETWORK_ROWS = 1 << 14  # times draws, in a block


def fewer_for_networks(size: int, target: Target, data: Data) -> int:
    """The number of draws in a block, of `size` for models without networks.

    Networks have values of every row of an unknown size: rows times draws are few.
    """
    if not target.space.networks.names or isinstance(data, Blocks):
        return size
    rows = max((len(value) for value in data.data.values() if value.ndim), default=1)
    return max(1, min(size, _NETWORK_ROWS // rows))


def log_likelihood(result: FitResult, data: Data, z: Arrays) -> Arrays:
    """Log density of every observation, by observed site, `(num_draws, *batch shape)`."""
    target = result.target
    if isinstance(data, Blocks):
        return _by_rows(target, data, lambda batch: log_likelihood(result, batch, z))
    program = target.program(_log_likelihood)
    return map_blocks(
        lambda part, _: program(part, result.variables.model, data, result.mutable),
        z,
        _draws_at_once(target, data),
    )


def log_predictive(result: FitResult, data: Data, z: Arrays) -> Arrays:
    """`log mean_s p(y_i | z_s)` of every observation, by observed site, `(*batch shape,)`."""
    target = result.target
    if isinstance(data, Blocks):
        return _by_rows(target, data, lambda batch: log_predictive(result, batch, z))
    if _are_equal(z):  # of point estimates
        z = {name: value[:1] for name, value in z.items()}
    size = _draws_at_once(target, data)
    num_draws = len(next(iter(z.values())))
    total: Arrays = {}
    for start in range(0, num_draws, size):
        part = {name: value[start : start + size] for name, value in z.items()}
        for name, values in log_likelihood(result, data, part).items():
            mean = np.logaddexp.reduce(values.astype(np.float64), axis=0) - math.log(num_draws)
            total[name] = np.logaddexp(total[name], mean) if name in total else mean
    return total


def _are_equal(z: Arrays) -> bool:
    """Whether all draws are equal; most others differ in the first and the last."""
    ends_are_equal = all((value[0] == value[-1]).all() for value in z.values())
    return ends_are_equal and all((value == value[0]).all() for value in z.values())


def _draws_at_once(target: Target, data: Data) -> int:
    size = block_size(data, target.footprint, target.subsampling.axes)
    return fewer_for_networks(size, target, data)


def _by_rows(target: Target, rows: Blocks, function: Callable[[Batch], Arrays]) -> Arrays:
    """Results by site, `(..., *batch shape)`, of a function applied to each block of rows."""
    out: Arrays = {}
    start = 0
    for block in rows:
        for name, values in function(block.batch).items() if block.rows else ():
            plates = target.structure.dims[name]
            if rows.plate.name not in plates:
                out[name] = values
                continue
            axis = plates.index(rows.plate.name) - len(plates)
            if name not in out:
                shape = list(values.shape)
                shape[axis] = rows.plate.size
                out[name] = np.empty(shape, values.dtype)
            view = np.moveaxis(out[name], axis, 0)[start : start + block.rows]
            view[:] = np.moveaxis(values, axis, 0)[: block.rows]
        start += block.rows
    return out


def _log_likelihood(
    target: Target, z: Position, model: dict[str, PyTree], batch: Batch, mutable: dict[str, PyTree]
) -> dict[str, Array]:
    def one(z: Position) -> dict[str, Array]:
        log_probs = target.site_log_probs(z, batch, model, mutable)
        return {name: log_probs[name] for name in target.structure.observed}

    return over_points(target, one, z)
