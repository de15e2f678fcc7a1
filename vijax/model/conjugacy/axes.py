"""Named axes of values: renamed, replaced by integers, broadcast."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vijax.model.conjugacy.values import (
    Axis,
    Entry,
    Factor,
    Index,
    Known,
    Labels,
    Opaque,
    Polynomial,
    Term,
    Value,
    is_concrete,
    is_number,
    module_of,
)


def align(array: Any, labels: Labels, dims: Labels) -> Any:
    """An array with axes `labels` as one with axes `dims`, of length 1 where it has none."""
    order = sorted(range(len(labels)), key=lambda i: dims.index(labels[i]))
    shape = [axis.size if axis in labels else 1 for axis in dims]
    if order != list(range(len(labels))):
        array = module_of(array).transpose(array, order)
    if tuple(np.shape(array)) == tuple(shape):
        return array
    return module_of(array).reshape(array, shape)


def rename_labels(labels: Labels, names: Mapping[Axis, Axis]) -> Labels:
    """Axes under other names."""
    return tuple(names.get(axis, axis) for axis in labels)


def rename(term: Term, names: Mapping[Axis, Axis]) -> Term:
    """A term with some axes under other names."""
    if not names:
        return term

    def entry(one: Entry) -> Entry:
        if isinstance(one, Axis):
            return names.get(one, one)
        return Index(one.array, rename_labels(one.labels, names))

    return Term(
        tuple((array, rename_labels(labels, names)) for array, labels in term.factors),
        tuple(
            dataclasses.replace(atom, entries=tuple(map(entry, atom.entries)))
            for atom in term.atoms
        ),
        frozenset(names.get(axis, axis) for axis in term.summed),
    )


def with_new_sums(term: Term) -> Term:
    """A term with new names for the axes that it is summed over."""
    return rename(term, {axis: Axis(axis.size) for axis in term.summed})


def with_dims(value: Value, dims: Labels) -> Value:
    """A value with its output axes under other names, and those of length 1 broadcast."""
    names = {old: new for old, new in zip(value.dims, dims, strict=True) if old is not new}
    if not names:
        return value
    if isinstance(value, Known):
        return Known(dims, value.array, rename_labels(value.labels, names))
    if isinstance(value, Opaque):
        return with_argument(value, dims, lambda argument: with_dims(argument, dims))
    return map_terms(value, lambda term: rename(term, names), dims)


def with_argument(value: Opaque, dims: Labels, change: Callable[[Any], Any]) -> Opaque:
    """A function of a polynomial with other axes, by those of its argument."""
    argument = None if value.argument is None else change(value.argument)
    return dataclasses.replace(value, dims=dims, argument=argument)


def map_terms(value: Polynomial, function: Callable[[Term], Term], dims: Labels) -> Polynomial:
    """A polynomial with every term, and every term of its logarithm, replaced."""
    terms = None if value.terms is None else tuple(map(function, value.terms))
    logs = None if value.log_terms is None else tuple(map(function, value.log_terms))
    return Polynomial(dims, terms, logs)


def take(array: Any, labels: Labels, axis: Axis, index: Index) -> Factor:
    """An array with one of its axes replaced by integers, which may share its other axes."""
    position = labels.index(axis)
    rest = [label for label in labels if label is not axis]
    if not any(label in rest for label in index.labels):
        module = module_of(array, index.array)
        found = module.take(module.asarray(array), index.array, axis=position, mode="clip")
        return found, (*labels[:position], *index.labels, *labels[position + 1 :])
    out = tuple(dict.fromkeys((*rest, *index.labels)))
    indices = [
        align(index.array, index.labels, out)
        if label is axis
        else align(np.arange(label.size), (label,), out)
        for label in labels
    ]
    return module_of(array, *indices).asarray(array)[tuple(indices)], out


class Substitution:
    """Replaces axes by indices; equal replacements give the same array, for comparison."""

    def __init__(self) -> None:
        self._memo: dict[tuple, tuple] = {}

    def term(self, term: Term, axis: Axis, entry: Entry) -> Term:
        """A term with an axis replaced by another axis or by integers."""
        if isinstance(entry, Axis):
            return rename(term, {axis: entry})
        factors = tuple(self._factor(factor, axis, entry) for factor in term.factors)
        atoms = tuple(
            dataclasses.replace(
                atom, entries=tuple(self._entry(one, axis, entry) for one in atom.entries)
            )
            for atom in term.atoms
        )
        return Term(factors, atoms, term.summed)

    def known(self, value: Known, axis: Axis, entry: Entry, dims: Labels) -> Known:
        """Likewise for a value that depends on no latent."""
        if isinstance(entry, Axis):
            return Known(dims, value.array, rename_labels(value.labels, {axis: entry}))
        return Known(dims, *self._factor((value.array, value.labels), axis, entry))

    def _factor(self, factor: Factor, axis: Axis, index: Index) -> Factor:
        array, labels = factor
        if axis not in labels:
            return factor
        lookup = (id(array), labels, axis, id(index.array), index.labels)
        if lookup not in self._memo:
            # keeps the arrays, so that no other gets their identity
            self._memo[lookup] = (take(array, labels, axis, index), array, index)
        return self._memo[lookup][0]

    def _entry(self, entry: Entry, axis: Axis, index: Index) -> Entry:
        if isinstance(entry, Axis):
            return index if entry is axis else entry
        return Index(*self._factor((entry.array, entry.labels), axis, index))


def simplified(index: Index, size: int) -> Entry:
    """An index that counts all `size` elements along one axis is that axis."""
    if len(index.labels) == 1 and is_concrete(index.array):
        axis = index.labels[0]
        if axis.size == size and np.array_equal(index.array, np.arange(size)):
            return axis
    return index


def same_entries(one: tuple[Entry, ...], two: tuple[Entry, ...]) -> bool:
    """Whether two indices are the same, as far as the program shows."""
    return len(one) == len(two) and all(map(same_entry, one, two))


def same_entry(one: Entry, two: Entry) -> bool:
    """Likewise along one axis."""
    if isinstance(one, Axis) or isinstance(two, Axis):
        return one is two
    if one.labels != two.labels:
        return False
    if one.array is two.array:
        return True
    return (
        is_concrete(one.array)
        and is_concrete(two.array)
        and np.array_equal(np.asarray(one.array), np.asarray(two.array))
    )


Live = Mapping[Axis, np.ndarray]  # by axis, where a product of numbers is not zero


def live(factors: Iterable[Factor]) -> dict[Axis, np.ndarray]:
    """Where the product of factors is not zero, by axis, as far as numbers along one axis show."""
    found: dict[Axis, np.ndarray] = {}
    for array, labels in factors:
        if len(labels) == 1 and is_number(array):
            nonzero = np.asarray(array) != 0
            found[labels[0]] = found.get(labels[0], nonzero) & nonzero
    return found


def positions(entries: Sequence[Entry], where: Live) -> tuple[Labels, list[np.ndarray]] | None:
    """The integers of entries along at most one axis, those that count; `None` if not known.

    Args:
        entries: along some axes of sites.
        where: positions along the axis that count.

    Returns:
        The axis, if any, and for each entry its integers.
    """
    labels = tuple(dict.fromkeys(a for e in entries for a in labels_of(e)))
    known = all(isinstance(e, Axis) or is_number(e.array) for e in entries)
    if len(labels) > 1 or not known:
        return None
    size = labels[0].size if labels else 1
    kept = where.get(labels[0], slice(None)) if labels else slice(None)
    arrays = [np.arange(e.size) if isinstance(e, Axis) else np.asarray(e.array) for e in entries]
    return labels, [np.broadcast_to(array, (size,))[kept] for array in arrays]


def labels_of(entry: Entry) -> Labels:
    """The axes of an index."""
    return (entry,) if isinstance(entry, Axis) else entry.labels


def broadcast_dims(one: Labels, two: Labels) -> Labels:
    """The axes of two values broadcast against one another, aligned at the last."""
    size = max(len(one), len(two))
    padded = [(None,) * (size - len(d)) + d for d in (one, two)]
    found = []
    for a, b in zip(*padded, strict=True):
        axis = a if b is None or (a is not None and a.size > 1) else b
        assert axis is not None
        found.append(axis)
    return tuple(found)


def broadcast(*values: Value) -> Labels:
    """The common axes of values."""
    dims: Labels = ()
    for value in values:
        dims = broadcast_dims(dims, value.dims)
    return dims


def with_shape(value: Value, dims: Labels) -> Value:
    """A value broadcast to more axes, in front and in place of those of length 1."""
    missing = len(dims) - len(value.dims)
    own = (*dims[:missing], *value.dims)
    padded: Value
    if isinstance(value, Known):
        padded = Known(own, value.array, value.labels)
    elif isinstance(value, Opaque):
        return with_argument(value, dims, lambda argument: with_shape(argument, dims))
    else:
        padded = map_terms(value, lambda term: term, own)
    names = {
        old: new for old, new in zip(own, dims, strict=True) if old is not new and old.size > 1
    }
    renamed = tuple(names.get(old, new) for old, new in zip(own, dims, strict=True))
    return with_dims(padded, renamed)
