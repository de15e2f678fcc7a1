"""Rows of data in blocks that stay in the processor's cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.solvers.mixture.components import Components

_CACHE = 320_000  # bytes for what one block of rows needs: features, logits, responsibilities
_FEWEST, _MOST = 128, 4096  # rows of a block


class Rows(NamedTuple):
    """Data of a mixture.

    Attributes:
        blocks: the augmented rows `a = (1, x)`, `(num_blocks, d + 1, rows of a block)`, float64;
            rows that fill up the last block are zero, and so are their features.
        pairs: the entries of `a` whose products are the features, `(2, p)`.
        offset: added to the features of every row, `(p,)`: the variance of errors of measurement.
        scale: how many rows each of these stands for, 1 unless they are a subsample.
    """

    blocks: Array
    pairs: np.ndarray
    offset: np.ndarray
    scale: float


def rows_of(
    data: np.ndarray,
    components: type[Components],
    offset: np.ndarray,
    num_columns: int,
    scale: float = 1.0,
) -> Rows:
    """Puts rows into blocks.

    Args:
        data: `(N, d)`.
        components: of the mixture.
        offset: `(p,)`.
        num_columns: of the logits, `K`, or all those of several mixtures together.
        scale: see `Rows`.
    """
    count, size = data.shape
    room = _CACHE // (8 * (len(offset) + 2 * num_columns))
    length = int(np.clip(1 << (max(room, 1).bit_length() - 1), _FEWEST, _MOST))
    length = min(length, -(-count // _FEWEST) * _FEWEST)
    num_blocks = -(-count // length)
    padded = np.zeros((num_blocks * length, size + 1))
    padded[:count, 0] = 1
    padded[:count, 1:] = data
    blocks: Any = padded.reshape(num_blocks, length, size + 1).transpose(0, 2, 1)
    with jax.enable_x64(True):
        blocks = jax.device_put(np.ascontiguousarray(blocks))
    return Rows(blocks, np.stack(components.pairs(size)), offset, scale)
