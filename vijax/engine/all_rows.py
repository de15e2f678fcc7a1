"""The full data of a model: in memory, or read a block of rows at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vijax.contracts import Batch, Blocks, Data, RowSource, Target
from vijax.data.arrays import MappedRows
from vijax.model import fetch

_BLOCK_ELEMENTS = 2**20  # larger blocks exceed a processor's cache, smaller ones cost dispatch
_MIN_ROW_ELEMENTS = 16  # lower limit for a row's cost: one value per point evaluated together
_READ_COST = 8  # row evaluations per row read: 2 from memory, 20 from a slow disk


def all_rows(target: Target, batch: Batch, sources: Mapping[str, RowSource]) -> Data | None:
    """The full data: the batch itself, or blocks of rows whose log densities are summed.

    Blocks are used if some arrays are not in memory, or if the data exceed a processor's cache.
    `None` if some arrays are not in memory and the log density is not a sum over blocks of rows
    (local latent variables, discrete sites shared by rows, sources along several plates), or if the
    model does not run on all rows at once.

    Args:
        target: the target.
        batch: the arrays in memory.
        sources: the arrays not in memory, by name.
    """
    if not target.subsampling.whole:
        return None
    if sources:
        return _blocks(target, batch, sources, _READ_COST)
    blocks = _blocks(target, batch, _uncached(target, batch), 0)
    return batch if blocks is None or blocks.plate.subsample_size == blocks.plate.size else blocks


def _uncached(target: Target, batch: Batch) -> dict[str, RowSource]:
    """Arrays in CPU memory that are subsampled along their first axis, as row sources."""
    if target.subsampling.request is None or target.devices.mesh is not None:
        return {}
    return {
        name: MappedRows(np.asarray(value))
        for name, value in batch.data.items()
        if [axis for _, axis in target.subsampling.axes.get(name, ())] == [0]
        and all(device.platform == "cpu" for device in value.devices())
    }


def _blocks(
    target: Target, batch: Batch, sources: Mapping[str, RowSource], read_cost: int
) -> Blocks | None:
    names = {target.subsampling.axes[name][0][0] for name in sources}
    shared = [
        site for site in target.marginalized.sizes if not names <= set(target.structure.dims[site])
    ]
    if len(names) != 1 or shared or target.on_batch is not target or target.space.discrete.sites:
        return None
    name = next(iter(names))
    size = target.subsampling.plates[name].size
    shapes = {key: value.shape for key, value in batch.data.items()}
    shapes |= {key: source.shape for key, source in sources.items()}
    subsampled_shapes = [
        shape for key, shape in shapes.items() if name in dict(target.subsampling.axes.get(key, ()))
    ]
    width = sum(map(math.prod, subsampled_shapes)) // size
    length = _block_length(size, max(1, _BLOCK_ELEMENTS // max(width, _MIN_ROW_ELEMENTS)))

    def read(rows: np.ndarray) -> dict[str, Any]:
        return fetch(sources, target.subsampling.axes, {name: rows})

    return Blocks(
        batch,
        dataclasses.replace(target.subsampling.plates[name], subsample_size=length),
        read,
        sum(map(math.prod, shapes.values())),
        read_cost * width + max(source.read_cost for source in sources.values()),
    )


def _block_length(size: int, max_length: int) -> int:
    """Rows per block, at most `max_length`: a divisor of `size` if one is at least half of it."""
    if size <= max_length:
        return size
    divisors = (length for length in range(max_length, max_length // 2, -1) if size % length == 0)
    return next(divisors, math.ceil(size / math.ceil(size / max_length)))
