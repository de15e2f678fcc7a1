"""Trees of arrays some of which have a row for every row of a plate, and steps that use a few."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax._contracts import Axes, Guide, PyTree, Space, Variables


def variable_axes(
    guide: Guide, variables: Variables, space: Space, plates: Collection[str]
) -> Variables:
    """The axes of every leaf of the variables; the model's own have none.

    Raises:
        GuideError: see `Guide.row_axes`.
    """
    own = jax.tree.map(lambda _: Axes(), variables.model)
    return Variables(guide.row_axes(variables.guide, space, plates), own)


def has_rows(axes: PyTree) -> bool:
    """Whether any leaf has rows."""
    return any(one.pairs for one in jax.tree.leaves(axes))


def take(tree: PyTree, axes: PyTree, index: Mapping[str, Any]) -> PyTree:
    """The tree with the rows in `index` only."""

    def one(leaf: Array, along: Axes) -> Array:
        for plate, axis in along.pairs:
            leaf = jnp.take(leaf, index[plate], axis, mode="clip")  # no bounds to check
        return leaf

    # a barrier: every use of a row would fetch it from memory again
    return lax.optimization_barrier(jax.tree.map(one, tree, axes))


def put(tree: PyTree, part: PyTree, axes: PyTree, index: Mapping[str, Array]) -> PyTree:
    """The tree with the rows in `index`, each there once, replaced by those of `part`."""

    def one(leaf: Array, rows: Array, along: Axes) -> Array:
        if not along.pairs:
            return rows
        where = _where(leaf, {axis: index[plate] for plate, axis in along.pairs})
        return leaf.at[where].set(rows, unique_indices=True, mode="promise_in_bounds")

    return jax.tree.map(one, tree, part, axes)


def _where(leaf: Array, rows: Mapping[int, Array]) -> tuple[Any, ...]:
    """An index of the rows given by axis."""
    if len(rows) == 1:
        return tuple(rows.get(axis, slice(None)) for axis in range(leaf.ndim))
    every = (rows.get(axis, jnp.arange(length)) for axis, length in enumerate(leaf.shape))
    return jnp.ix_(*every)  # each row of one plate with each of the other


def shared(tree: PyTree, axes: PyTree) -> PyTree:
    """The tree without the leaves that have rows: `None` in their place."""
    return jax.tree.map(lambda leaf, along: None if along.pairs else leaf, tree, axes)


def merge(shared: PyTree, tree: PyTree) -> PyTree:
    """The tree with all leaves that `shared` has taken from there."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, shared, tree, is_leaf=_is_none
    )


def _is_none(leaf: Any) -> bool:
    return leaf is None
