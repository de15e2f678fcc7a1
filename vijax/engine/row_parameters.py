"""Pytrees with per-row parameters of a plate, and the gather and scatter of a batch's rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import Axes, Guide, PyTree, Space, Variables
from vijax.contracts.rows import take_rows


def variable_axes(
    guide: Guide, variables: Variables, space: Space, plates: Collection[str]
) -> Variables:
    """The plate axes of every leaf of the variables; the model's parameters have none.

    Raises:
        GuideError: see `Guide.row_axes`.
    """
    model_axes = jax.tree.map(lambda _: Axes(), variables.model)
    return Variables(guide.row_axes(variables.guide, space, plates), model_axes)


def has_rows(axes: PyTree) -> bool:
    """Whether any leaf has a plate axis."""
    return any(one.pairs for one in jax.tree.leaves(axes))


def take(tree: PyTree, axes: PyTree, index: Mapping[str, Any]) -> PyTree:
    """Gathers the rows in `index` of every leaf."""
    return jax.tree.map(lambda leaf, along: take_rows(leaf, along.pairs, index), tree, axes)


def _put(leaf: Array, rows: Array, along: Axes, index: Mapping[str, Array]) -> Array:
    if not along.pairs:
        return rows
    indexer = _row_indexer(leaf, {axis: index[plate] for plate, axis in along.pairs})
    return leaf.at[indexer].set(rows, unique_indices=True, mode="promise_in_bounds")


def _row_indexer(leaf: Array, rows: Mapping[int, Array]) -> tuple[Any, ...]:
    """The indexer of the rows given by axis."""
    if len(rows) == 1:
        return tuple(rows.get(axis, slice(None)) for axis in range(leaf.ndim))
    every = (rows.get(axis, jnp.arange(length)) for axis, length in enumerate(leaf.shape))
    return jnp.ix_(*every)  # the outer product of the plates' rows


class Packed(NamedTuple):
    """A tree in row-major layout: all per-row values of a row are contiguous in memory.

    A step thus needs one memory access per row instead of one per row and leaf.

    Attributes:
        rest: the tree, its leaves with rows of exactly one plate replaced by empty arrays
            `(0, *shape)` of the same dtype.
        blocks: the values of those leaves by plate and dtype, `(rows, values per row)`.
    """

    rest: PyTree
    blocks: dict[str, Array]


def pack(tree: PyTree, axes: PyTree) -> Packed:
    """The tree in row-major layout."""

    def placeholder(leaf: Array, along: Axes) -> Array:
        return jnp.zeros((0, *leaf.shape), leaf.dtype) if len(along.pairs) == 1 else leaf

    return Packed(jax.tree.map(placeholder, tree, axes), _blocks(tree, axes))


def unpack(packed: Packed, axes: PyTree) -> PyTree:
    """The inverse of `pack`."""
    return _with_columns(packed.rest, axes, packed.blocks)


def packed_axes(packed: Packed, axes: PyTree) -> Packed:
    """The plate axes of the leaves of a packed tree, given those of the tree."""
    blocks: dict[str, Any] = {key: Axes(((_plate(key), 0),)) for key in packed.blocks}
    return Packed(jax.tree.map(_unpacked, axes), blocks)


def take_packed(packed: Packed, axes: PyTree, index: Mapping[str, Any]) -> PyTree:
    """Gathers the rows in `index`; returns an unpacked tree."""
    rows = {
        key: jnp.take(block, index[_plate(key)], 0, mode="clip")
        for key, block in packed.blocks.items()
    }
    rest = jax.tree.map(
        lambda leaf, along: take_rows(leaf, _unpacked(along).pairs, index), packed.rest, axes
    )
    # without the barrier every use of a row would gather it again
    return lax.optimization_barrier(_with_columns(rest, axes, rows))


def put_packed(packed: Packed, part: PyTree, axes: PyTree, index: Mapping[str, Array]) -> Packed:
    """Scatters the rows of `part` to the rows in `index`, which must be unique."""
    rows = _blocks(part, axes)
    blocks = {
        key: block.at[index[_plate(key)]].set(
            rows[key], unique_indices=True, mode="promise_in_bounds"
        )
        for key, block in packed.blocks.items()
    }

    def one(leaf: Array, new: Array, along: Axes) -> Array:
        return leaf if len(along.pairs) == 1 else _put(leaf, new, along, index)

    return Packed(jax.tree.map(one, packed.rest, part, axes), blocks)


def _blocks(tree: PyTree, axes: PyTree) -> dict[str, Array]:
    """The leaves with rows of exactly one plate, concatenated by plate and dtype."""
    columns: dict[str, list[Array]] = {}
    for leaf, along in zip(jax.tree.leaves(tree), jax.tree.leaves(axes), strict=True):
        if len(along.pairs) == 1:
            rows = jnp.moveaxis(leaf, along.pairs[0][1], 0)
            columns.setdefault(_key(leaf, along), []).append(rows.reshape(len(rows), -1))
    return {key: jnp.concatenate(parts, axis=1) for key, parts in columns.items()}


def _with_columns(rest: PyTree, axes: PyTree, blocks: Mapping[str, Array]) -> PyTree:
    """The tree, its leaves with rows of one plate taken from the columns of the blocks."""
    leaves, structure = jax.tree.flatten(rest)
    used = dict.fromkeys(blocks, 0)
    for i, along in enumerate(jax.tree.leaves(axes)):
        if len(along.pairs) != 1:
            continue
        key, ((_, axis),) = _key(leaves[i], along), along.pairs
        shape = [length for j, length in enumerate(leaves[i].shape[1:]) if j != axis]
        start, block = used[key], blocks[key]
        used[key] = start + math.prod(shape)
        columns = block[:, start : used[key]].reshape(len(block), *shape)
        leaves[i] = jnp.moveaxis(columns, 0, axis)
    return jax.tree.unflatten(structure, leaves)


def _key(leaf: Array, along: Axes) -> str:
    return f"{along.pairs[0][0]} {leaf.dtype}"


def _plate(key: str) -> str:
    return key.rpartition(" ")[0]


def _unpacked(along: Axes) -> Axes:
    """The plate axes of a leaf of `Packed.rest`: none if its values are in a block."""
    return Axes() if len(along.pairs) == 1 else along


def shared(tree: PyTree, axes: PyTree) -> PyTree:
    """The tree with per-row leaves replaced by `None`."""
    return jax.tree.map(lambda leaf, along: None if along.pairs else leaf, tree, axes)


def merge(shared: PyTree, tree: PyTree) -> PyTree:
    """The tree with the leaves of `shared`, and its own where `shared` is `None`."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, shared, tree, is_leaf=_is_none
    )


def _is_none(leaf: Any) -> bool:
    return leaf is None
