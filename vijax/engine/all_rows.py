"""All rows of a model's data, whether they are in memory or read a block at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vijax.contracts import Batch, Blocks, Data, RowSource, Target
from vijax.data.arrays import MappedRows
from vijax.model import fetch

_NUMBERS = 2**20  # of a block: more do not stay in a processor's cache, fewer are mostly dispatch
_WIDTH = 16  # numbers that a row counts for at least: a value for each of the points at once
_READING = 8  # evaluations that take as long as reading a row: 2 from memory, 20 from a slow disk


def all_rows(target: Target, batch: Batch, sources: Mapping[str, RowSource]) -> Data | None:
    """The data, all rows of them: the batch, or blocks to be summed over.

    Blocks where some rows have to be read, and where all of them at once would not stay in a
    processor's cache. `None` where some have to be read and the log density is no sum over blocks
    of rows: latents by row, discrete sites that rows share, sources along several plates.

    Args:
        target: the target.
        batch: the data that are in memory.
        sources: those that are not, by name.
    """
    if sources:
        return _blocks(target, batch, sources, _READING)
    blocks = _blocks(target, batch, _uncached(target, batch), 0)
    return batch if blocks is None or blocks.plate.subsample_size == blocks.plate.size else blocks


def _uncached(target: Target, batch: Batch) -> dict[str, RowSource]:
    """The arrays in a processor's memory of which a model that is cut into batches sees rows."""
    if target.subsampling.request is None or target.devices.mesh is not None:
        return {}
    return {
        name: MappedRows(np.asarray(value))
        for name, value in batch.data.items()
        if [axis for _, axis in target.subsampling.axes.get(name, ())] == [0]
        and all(device.platform == "cpu" for device in value.devices())
    }


def _blocks(
    target: Target, batch: Batch, sources: Mapping[str, RowSource], reading: int
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
    cut = [
        shape for key, shape in shapes.items() if name in dict(target.subsampling.axes.get(key, ()))
    ]
    width = sum(map(math.prod, cut)) // size
    length = _length(size, max(1, _NUMBERS // max(width, _WIDTH)))

    def read(rows: np.ndarray) -> dict[str, Any]:
        return fetch(sources, target.subsampling.axes, {name: rows})

    return Blocks(
        batch,
        dataclasses.replace(target.subsampling.plates[name], subsample_size=length),
        read,
        sum(map(math.prod, shapes.values())),
        reading * width + max(source.read_cost for source in sources.values()),
    )


def _length(size: int, most: int) -> int:
    """RowSchedule of a block, `most` at the most: a divisor of all of them if there is one near."""
    if size <= most:
        return size
    divisors = (length for length in range(most, most // 2, -1) if size % length == 0)
    return next(divisors, math.ceil(size / math.ceil(size / most)))
