"""Candidates for an answer, compared by their ELBO on draws that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vijax.contracts import Batch, Guide, PyTree, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.engine.all_rows import all_rows
from vijax.engine.row_parameters import has_rows, take, variable_axes
from vijax.engine.row_schedule import RowSchedule
from vijax.runtime.keys import as_key, fold_in

_SCORES = (200, 4000)  # fewest and most draws that compare two candidates
_SCORE_ELEMENTS = 2**30  # draws times data elements that a comparison may cost


def common_log_weights(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    rows: RowSchedule,
    seed: int = 0,
) -> np.ndarray:
    """`log p - log q` of many draws on all data, where that takes long as many fresh row sets."""
    key = fold_in(as_key(0x5C0E), seed)
    fewest, most = _SCORES
    affordable = _SCORE_ELEMENTS // weights.num_elements(batch, target.space.dim)
    at_once = affordable >= fewest and shares_all(target) and not rows.sources
    if at_once or not rows.subsampled:
        num_draws = max(fewest, min(most, affordable))
        data = all_rows(target, batch, {}) or batch
        return weights.draw(target, guide, variables, mutable, key, data, num_draws).log_weights
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    variables = target.devices.put(variables, axes, stacked=False)
    cut, out = target.program(_of_rows_everywhere, guide), []
    for i in range(fewest):
        part = rows.batch(batch, i)
        some = cut(variables, part.index) if has_rows(axes) else variables
        one = weights.draw(target.on_batch, guide, some, mutable, fold_in(key, i), part, 1)
        out.append(one.log_weights)
    return np.concatenate(out)


def knows_all_rows(target: Target) -> bool:
    """Whether the data surely are all rows, so that no index means every one of them."""
    return bool(
        target.subsampling.request is not None
        or target.on_batch is not target
        or target.marginalized.sizes
    )


def shares_all(target: Target) -> bool:
    """Whether the ELBO can be estimated on all data as on batches: no parameters are by row."""
    return target.subsampling.request is not None and target.on_batch is target


def of_rows(
    target: Target, guide: Guide, variables: Variables, index: Mapping[str, Any]
) -> Variables:
    """The variables with the parameters of some rows only."""
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    return take(variables, axes, index) if has_rows(axes) else variables


def _of_rows_everywhere(
    target: Target, guide: Guide, variables: Variables, index: Mapping[str, Any]
) -> Variables:
    return target.devices.replicate(of_rows(target, guide, variables, index))
