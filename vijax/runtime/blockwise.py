"""Programs of one compiled size serve any number of draws, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from vijax.runtime.device_layout import on_host
from vijax.runtime.memory import check_host_memory

Arrays = dict[str, np.ndarray]


def blocks(function: Callable[[Arrays, np.ndarray], Any], values: Arrays, size: int) -> Arrays:
    """`function(block of values, their row numbers)` over all rows, in blocks of one size.

    The last block is filled up with copies of the last row, which are cut off again.
    """
    num_draws = len(next(iter(values.values())))
    starts = range(0, num_draws, size)
    rows = (np.minimum(np.arange(start, start + size), num_draws - 1) for start in starts)
    parts = (
        on_host(function({name: value[some] for name, value in values.items()}, some))
        for some in rows
    )
    return concatenate_blocks(parts, num_draws)


def together(parts: Iterable[Any], num_draws: int) -> Any:
    """Blocks of draws, trees of arrays, as one, cut to `num_draws`.

    Blocks are taken as they come, and the whole is asked for with the first of them: what does not
    fit into memory is refused before the work is done.
    """
    out, start = None, 0
    for part in parts:
        if out is None:
            check_host_memory(sum(leaf.nbytes / len(leaf) for leaf in jax.tree.leaves(part)) * num_draws)
            out = jax.tree.map(
                lambda leaf: np.empty((num_draws, *leaf.shape[1:]), leaf.dtype), part
            )
        length = 0
        for whole, leaf in zip(jax.tree.leaves(out), jax.tree.leaves(part), strict=True):
            length = min(len(leaf), num_draws - start)
            whole[start : start + length] = leaf[:length]
        start += length
    return out
