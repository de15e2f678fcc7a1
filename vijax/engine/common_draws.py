"""Log weights on common random draws, by which candidate variables are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Block, Blocks, Guide, PyTree, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.engine.all_rows import all_rows
from vijax.engine.row_parameters import has_rows, take, variable_axes
from vijax.engine.row_schedule import RowSchedule
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import as_key, fold_in
from vijax.solvers import block_updates

_NUM_DRAWS = (200, 4000)  # minimum and maximum number of draws
_NUM_OF_NETWORKS = 500  # maximum of networks, whose evaluations take long
_NUM_BOUNDS = 50  # draws of stochastic bounds on all rows, each of which averages over these
_MAX_ELEMENTS = 2**30  # limit for draws times data elements


def common_log_weights(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    rows: RowSchedule,
    seed: int = 0,
) -> np.ndarray:
    """`log p - log q` at draws from the guide that depend on nothing but `seed`, `(num_draws,)`.

    On the full data if that is affordable; otherwise each draw is evaluated on a batch of its own.
    """
    if isinstance(guide, BoundConjugate):
        return exact_elbos(target, guide, variables, batch, rows, seed)
    key = fold_in(as_key(0x5C0E), seed)
    min_draws, max_draws = _NUM_DRAWS
    if target.space.networks.sites:
        max_draws = _NUM_OF_NETWORKS
    if target.structure.bounds and not rows.subsampled:  # one at a time: each averages over rows
        state = (target, guide, variables, mutable)
        keys = (fold_in(key, i) for i in range(_NUM_BOUNDS))
        return np.concatenate([weights.draw(*state, k, batch, 1).log_weights for k in keys])
    elements = weights.num_elements(batch, target.space.dim) + target.network_cost
    affordable = 0 if target.structure.bounds else _MAX_ELEMENTS // elements
    full = affordable >= min_draws and supports_full_data(target) and not rows.sources
    if full or not rows.subsampled:
        num_draws = max(min_draws, min(max_draws, affordable))
        data = all_rows(target, batch, {}) or batch
        return weights.draw(target, guide, variables, mutable, key, data, num_draws).log_weights
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    variables = target.devices.put(variables, axes, stacked=False)
    select, out = target.program(_replicated_variables_on_rows, guide), []
    for i in range(min_draws):
        part = rows.batch(batch, i)
        selected = select(variables, part.index) if has_rows(axes) else variables
        one = weights.draw(target.on_batch, guide, selected, mutable, fold_in(key, i), part, 1)
        out.append(one.log_weights)
    return np.concatenate(out)


def exact_elbos(
    target: Target,
    guide: BoundConjugate,
    variables: Variables,
    batch: Batch,
    rows: RowSchedule,
    seed: int = 0,
) -> np.ndarray:
    """The ELBO, twice, or unbiased estimates by batches that depend on nothing but `seed`.

    In double precision, without random draws; in place of log weights.
    """
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    select = target.program(_replicated_variables_on_rows, guide)
    with jax.enable_x64(True):
        if not rows.subsampled or (supports_full_data(target) and not rows.sources):
            program = target.program(block_updates.elbo, guide.plan)
            data = all_rows(target, batch, {}) or batch
            parts = data if isinstance(data, Blocks) else [Block(data, 1.0, 0)]
            families = block_updates.double_precision(variables.guide)
            terms = (
                part.weight * program(families, block_updates.double_precision(part.batch))
                for part in parts
            )
            return np.repeat(np.float64(on_host(sum(terms))), 2)
        program = target.on_batch.program(block_updates.elbo, guide.plan)
        found = []
        for i in range(_NUM_DRAWS[0]):
            part = rows.batch(batch, i + seed * _NUM_DRAWS[0])
            one = select(variables, part.index) if has_rows(axes) else variables
            found.append(program(*block_updates.double_precision((one.guide, part))))
        return np.array(on_host(found), np.float64)


def holds_all_rows(target: Target) -> bool:
    """Whether the arrays are known to hold all rows, so that a batch without index is full data."""
    return bool(
        target.subsampling.request is not None
        or target.on_batch is not target
        or target.marginalized.sizes
    )


def supports_full_data(target: Target) -> bool:
    """Whether the same variables apply to full data and batches: no per-row parameters."""
    return target.subsampling.request is not None and target.on_batch is target


def variables_on_rows(
    target: Target, guide: Guide, variables: Variables, index: Mapping[str, Any]
) -> Variables:
    """The variables, per-row parameters restricted to the rows in `index`."""
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    return take(variables, axes, index) if has_rows(axes) else variables


def _replicated_variables_on_rows(
    target: Target, guide: Guide, variables: Variables, index: Mapping[str, Any]
) -> Variables:
    return target.devices.replicate(variables_on_rows(target, guide, variables, index))
