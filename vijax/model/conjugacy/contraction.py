"""Products of arrays with named axes, summed over axes, and elements of an array by index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.conjugacy.axes import align, take
from vijax.model.conjugacy.values import Axis, Entry, Factor, Index, Labels, is_concrete


def named(array: Any, dims: Labels) -> Factor:
    """An array with dimensions `dims`, without those of length 1."""
    shape = np.shape(array)
    labels = tuple(axis for axis, size in zip(dims, shape, strict=True) if size != 1)
    return jnp.reshape(array, [size for size in shape if size != 1]), labels


def contract(operands: Sequence[Factor], dims: Labels, summed: frozenset[Axis]) -> Array:
    """The product of arrays with named axes, summed over all but `dims`; constant axes length 1."""
    present = {axis for _, labels in operands for axis in labels}
    repeats = math.prod(axis.size for axis in summed if axis not in present)
    number, arrays = _grouped(operands)
    number = number * repeats
    shape = [axis.size if axis in present else 1 for axis in dims]
    if not arrays:
        return jnp.reshape(number, shape)
    numbers = {axis: i for i, axis in enumerate(present)}
    arguments: list[Any] = []
    for array, labels in arrays:
        arguments += [array, [numbers[axis] for axis in labels]]
    kept = [numbers[axis] for axis in dims if axis in present]
    return number * jnp.reshape(jnp.einsum(*arguments, kept, optimize="auto"), shape)


def _grouped(operands: Sequence[Factor]) -> tuple[Array, list[Factor]]:
    """The product of numbers, and of arrays with the same axes: a short einsum is planned fast."""
    number: Any = 1.0
    groups: dict[frozenset[Axis], Factor] = {}
    dtype = jnp.result_type(float)
    for array, labels in operands:
        if not labels:
            number = number * (array if is_concrete(array) else jnp.asarray(array, dtype))
            continue
        known_array, order = groups.get(frozenset(labels), (None, labels))
        aligned = jnp.asarray(
            align(array, labels, order) if len(set(labels)) == len(labels) else array, dtype
        )
        groups[frozenset(labels)] = (
            aligned if known_array is None else known_array * aligned,
            order,
        )
    return jnp.asarray(number, dtype), list(groups.values())


def view(array: Any, entries: Sequence[Entry]) -> Factor:
    """The elements of an array at the index `entries` along its axes."""
    own = tuple(
        entry if isinstance(entry, Axis) else Axis(np.shape(array)[i])
        for i, entry in enumerate(entries)
    )
    found, labels = array, own
    if len(set(map(id, own))) < len(own):  # a diagonal
        out = tuple(dict.fromkeys(own))
        grid = [align(np.arange(axis.size), (axis,), out) for axis in own]
        found, labels = array[tuple(grid)], out
    indexed = [
        (axis, entry) for axis, entry in zip(own, entries, strict=True) if isinstance(entry, Index)
    ]
    joint = [axis for _, index in indexed for axis in index.labels]
    if len(set(joint)) < len(joint):
        return _view_at_several(found, labels, indexed)
    for axis, index in indexed:
        found, labels = take(found, labels, axis, index)
    return found, labels


def _view_at_several(array: Any, labels: Labels, indexed: Sequence[tuple[Axis, Index]]) -> Factor:
    """Elements at several integer arrays at once, as NumPy's advanced indexing."""
    axes = [axis for axis, _ in indexed]
    joint = tuple(dict.fromkeys(a for _, index in indexed for a in index.labels))
    rest = tuple(axis for axis in labels if axis not in axes)
    front = jnp.transpose(array, [labels.index(axis) for axis in (*axes, *rest)])
    shared = [axis for axis in rest if axis in joint]
    if not shared:
        indices = tuple(align(index.array, index.labels, joint) for _, index in indexed)
        return front[indices], (*joint, *rest)
    out = (*joint, *(axis for axis in rest if axis not in joint))
    indices = tuple(align(index.array, index.labels, out) for _, index in indexed)
    return front[(*indices, *(align(np.arange(a.size), (a,), out) for a in rest))], out
