"""Evaluation of programs of one compiled size over any number of draws, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from vijax.runtime.device_layout import on_host
from vijax.runtime.memory import check_host_memory
from vijax.runtime.stacks import Packed

Arrays = dict[str, np.ndarray]

_MIN_BLOCK = 16


def map_blocks(function: Callable[[Arrays, np.ndarray], Any], values: Arrays, size: int) -> Arrays:
    """`function(block of values, their indices)` over all draws, in blocks of `size`.

    The last block is padded with copies of the last draw, whose results are dropped. Of few draws
    blocks are smaller: powers of two, for few programs.
    """
    num_draws = len(next(iter(values.values())))
    size = min(size, max(_MIN_BLOCK, 1 << (num_draws - 1).bit_length()))
    starts = range(0, num_draws, size)
    indices = (np.minimum(np.arange(start, start + size), num_draws - 1) for start in starts)
    parts = (
        on_host(function({name: value[index] for name, value in values.items()}, index))
        for index in indices
    )
    return concatenate_blocks(parts, num_draws)


def concatenate_blocks(parts: Iterable[Any], num_draws: int) -> Any:
    """Blocks of draws, trees of arrays, concatenated and truncated to `num_draws`; unpacked.

    Memory for the result is checked and allocated with the first block, so that a result that does
    not fit is rejected before the others are computed.
    """
    out, start = None, 0
    for part in parts:
        if out is None:
            num_bytes = sum(leaf.nbytes / len(leaf) for leaf in jax.tree.leaves(part)) * num_draws
            check_host_memory(num_bytes)
            out = jax.tree.map(
                lambda leaf: np.empty((num_draws, *leaf.shape[1:]), leaf.dtype), part
            )
        length = 0
        for total, leaf in zip(jax.tree.leaves(out), jax.tree.leaves(part), strict=True):
            length = min(len(leaf), num_draws - start)
            total[start : start + length] = leaf[:length]
        start += length
    return out.unpack() if isinstance(out, Packed) else out
