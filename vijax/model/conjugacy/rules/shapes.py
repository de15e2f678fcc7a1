"""What operations that move elements do to data and to polynomials, by primitive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vijax.model.conjugacy.axes import map_terms, simplified, with_argument, with_dims
from vijax.model.conjugacy.interpreter import Interpreter
from vijax.model.conjugacy.polynomials import logarithm, polynomial, scale
from vijax.model.conjugacy.values import (
    Axis,
    Entry,
    Index,
    Known,
    Labels,
    Opaque,
    Polynomial,
    Term,
    Terms,
    Value,
    module_of,
    new_axes,
)

Rule = Callable[[Interpreter, Any, Sequence[Any]], "Value | list[Value] | None"]


def substitute(
    interpreter: Interpreter, value: Value, changes: dict[Axis, Entry], dims: Labels
) -> Value:
    """A value with axes replaced by others or by integers."""
    if isinstance(value, Opaque):
        return with_argument(
            value, dims, lambda argument: substitute(interpreter, argument, changes, dims)
        )
    if isinstance(value, Known):
        for axis, entry in changes.items():
            value = interpreter.substitution.known(value, axis, entry, dims)
        return Known(dims, value.array, value.labels)

    def change(term: Term) -> Term:
        for axis, entry in changes.items():
            term = interpreter.substitution.term(term, axis, entry)
        return term

    return map_terms(value, change, dims)


def _out_dims(equation: Any) -> Labels:
    return new_axes(equation.outvars[0].aval.shape)


def _broadcast_in_dim(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    dims = list(_out_dims(equation))
    changes: dict[Axis, Entry] = {}
    for axis, position in zip(inputs[0].dims, equation.params["broadcast_dimensions"], strict=True):
        if axis.size == dims[position].size:
            dims[position] = axis
    return substitute(interpreter, inputs[0], changes, tuple(dims))


def _transpose(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    dims = tuple(inputs[0].dims[i] for i in equation.params["permutation"])
    return substitute(interpreter, inputs[0], {}, dims)


def _reshape(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    old, shape = inputs[0].dims, tuple(equation.outvars[0].aval.shape)
    changes, dims = reshaped(old, shape)
    return substitute(interpreter, inputs[0], changes, dims)


def reshaped(old: Labels, shape: tuple[int, ...]) -> tuple[dict[Axis, Entry], Labels]:
    """Axes of a reshaped array, and what replaces the old ones."""
    changes: dict[Axis, Entry] = {}
    olds, dims = [axis for axis in old if axis.size != 1], []
    sizes = list(shape)
    while sizes:
        size = sizes.pop(0)
        if size == 1:
            dims.append(Axis(1))
            continue
        if olds and olds[0].size == size:
            dims.append(olds.pop(0))
            continue
        inside, outside = [olds.pop(0)], [Axis(size)]
        while np.prod([a.size for a in inside]) != np.prod([a.size for a in outside]):
            if np.prod([a.size for a in inside]) < np.prod([a.size for a in outside]):
                inside.append(olds.pop(0))
            else:
                outside.append(Axis(sizes.pop(0)))
        dims.extend(outside)
        labels = tuple(axis for axis in outside if axis.size != 1)
        grid = np.arange(np.prod([a.size for a in labels])).reshape([a.size for a in labels])
        indices = np.unravel_index(grid, [a.size for a in inside])
        changes |= {a: Index(i, labels) for a, i in zip(inside, indices, strict=True)}
    return changes, tuple(dims)


def _iota(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    dims, position = _out_dims(equation), equation.params["dimension"]
    if dims[position].size == 1:
        return Known(dims, np.zeros((), equation.params["dtype"]), ())
    numbers = np.arange(dims[position].size, dtype=equation.params["dtype"])
    return Known(dims, numbers, (dims[position],))


def _squeeze(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    dims = inputs[0].dims
    kept = [a for i, a in enumerate(dims) if i not in equation.params["dimensions"]]
    return substitute(interpreter, inputs[0], {}, tuple(kept))


def restrict(
    interpreter: Interpreter, value: Value, starts: Sequence[int], steps: Sequence[int], shape: Any
) -> Value:
    """The elements of a value at equally spaced positions along each axis."""
    changes: dict[Axis, Entry] = {}
    dims = []
    for axis, start, step, size in zip(value.dims, starts, steps, shape, strict=True):
        if size == axis.size and step == 1:
            dims.append(axis)
            continue
        dims.append(Axis(size))
        if axis.size == 1:
            continue
        positions = start + step * np.arange(size)
        one = size == 1
        changes[axis] = Index(positions[0] if one else positions, () if one else (dims[-1],))
    return substitute(interpreter, value, changes, tuple(dims))


def _slice(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    starts, strides = equation.params["start_indices"], equation.params["strides"]
    steps = strides or (1,) * len(starts)
    shape = equation.outvars[0].aval.shape
    return restrict(interpreter, inputs[0], starts, steps, shape)


def _reverse(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    (value,) = inputs
    changes: dict[Axis, Entry] = {}
    dims = list(value.dims)
    for position in equation.params["dimensions"]:
        if value.dims[position].size > 1:
            dims[position] = Axis(value.dims[position].size)
            backwards = np.arange(dims[position].size)[::-1]
            changes[value.dims[position]] = Index(backwards, (dims[position],))
    return substitute(interpreter, value, changes, tuple(dims))


def _dynamic_slice(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    value, *starts = inputs
    changes: dict[Axis, Entry] = {}
    dims = []
    for axis, start, size in zip(value.dims, starts, equation.params["slice_sizes"], strict=True):
        if size == axis.size:
            dims.append(axis)
            continue
        dims.append(Axis(size))
        if not isinstance(start, Known):
            return interpreter.opaque("dynamic_slice", inputs, equation.outvars[0].aval.shape)
        first = module_of(start.array).clip(start.array, 0, axis.size - size)
        labels = () if size == 1 else (dims[-1],)
        changes[axis] = Index(first if size == 1 else first + np.arange(size), labels)
    return substitute(interpreter, value, changes, tuple(dims))


def _gather(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    """An access by integer arrays along some axes, whole slices along all others."""
    value, where = inputs
    numbers = equation.params["dimension_numbers"]
    sizes, out = equation.params["slice_sizes"], _out_dims(equation)
    whole = [size == axis.size for size, axis in zip(sizes, value.dims, strict=True)]
    plain = isinstance(where, Known) and all(w or n == 1 for w, n in zip(whole, sizes, strict=True))
    if not plain or numbers.operand_batching_dims:
        if isinstance(value, Known) and isinstance(where, Known):
            return interpreter.executed(equation, inputs)[0]
        return interpreter.opaque("gather", inputs, equation.outvars[0].aval.shape)
    batch = [a for i, a in enumerate(out) if i not in numbers.offset_dims]
    dims = list(out)
    kept = [i for i in range(len(sizes)) if i not in numbers.collapsed_slice_dims]
    for i, position in zip(kept, numbers.offset_dims, strict=True):
        if whole[i]:
            dims[position] = value.dims[i]
    changes: dict[Axis, Entry] = {}
    for column, i in enumerate(numbers.start_index_map):
        index = _column(interpreter, where, column, tuple(batch))
        if value.dims[i].size > 1 and sizes[i] == 1:
            changes[value.dims[i]] = simplified(
                Index(index.array, index.labels), value.dims[i].size
            )
    return substitute(interpreter, value, changes, tuple(dims))


def _column(interpreter: Interpreter, where: Known, column: int, batch: Labels) -> Known:
    """One of the integers of each access, with axes `batch`; the same object each time."""
    last = where.dims[-1]
    dims = (*batch, last)
    named = with_dims(where, dims)
    assert isinstance(named, Known)
    if last.size == 1:
        return Known(batch, named.array, named.labels)
    return interpreter.substitution.known(named, last, Index(np.asarray(column), ()), batch)


def _split(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> list[Value]:
    (value,), axis = inputs, equation.params["axis"]
    found, start = [], 0
    for out in equation.outvars:
        starts = [0] * len(value.dims)
        starts[axis] = start
        start += out.aval.shape[axis]
        found.append(restrict(interpreter, value, starts, [1] * len(starts), out.aval.shape))
    return found


def _tile(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    (value,), repeats = inputs, equation.params["reps"]
    changes: dict[Axis, Entry] = {}
    dims = []
    for axis, number in zip(value.dims, repeats, strict=True):
        dims.append(axis if number == 1 else Axis(axis.size * number))
        if number > 1 and axis.size > 1:
            changes[axis] = Index(np.arange(axis.size * number) % axis.size, (dims[-1],))
    return substitute(interpreter, value, changes, tuple(dims))


def _stack(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    if all(isinstance(value, Known) for value in inputs):
        return interpreter.executed(equation, inputs)[0]
    axis, shape = equation.params["axis"], equation.outvars[0].aval.shape
    if any(isinstance(value, Opaque) for value in inputs):
        return interpreter.opaque("stack", inputs, shape)
    pieces = [
        (i, substitute(interpreter, v, {}, (*v.dims[:axis], Axis(1), *v.dims[axis:])))
        for i, v in enumerate(inputs)
    ]
    found = joined(interpreter, pieces, axis, shape)
    return interpreter.opaque("stack", inputs, shape) if found is None else found


def _concatenate(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    if all(isinstance(value, Known) for value in inputs):
        return interpreter.executed(equation, inputs)[0]
    axis_number, shape = equation.params["dimension"], equation.outvars[0].aval.shape
    if any(isinstance(value, Opaque) for value in inputs):
        return interpreter.opaque("concatenate", inputs, shape)
    pieces, start = [], 0
    for value in inputs:
        pieces.append((start, value))
        start += value.dims[axis_number].size
    found = joined(interpreter, pieces, axis_number, shape)
    return interpreter.opaque("concatenate", inputs, shape) if found is None else found


def joined(
    interpreter: Interpreter, pieces: Sequence[tuple[int, Value]], axis: int, shape: Any
) -> Polynomial | None:
    """Values side by side along an axis, from their first positions."""
    dims = list(pieces[0][1].dims)
    for _, value in pieces:
        dims = [a if a.size > 1 else b for a, b in zip(dims, value.dims, strict=True)]
    dims[axis] = new = Axis(shape[axis])
    terms: Terms | None = ()
    logs: Terms | None = ()
    for start, value in pieces:
        own = value.dims[axis]
        renamed = with_dims(value, (*dims[:axis], own, *dims[axis + 1 :]))
        inside = (np.arange(new.size) >= start) & (np.arange(new.size) < start + own.size)
        mask = (inside.astype(float), (new,))
        place = Index(np.clip(np.arange(new.size) - start, 0, own.size - 1), (new,))
        change: Callable[[Term], Term] = _unchanged
        if own.size > 1:
            change = functools.partial(interpreter.substitution.term, axis=own, entry=place)
        part = polynomial(renamed)
        log = logarithm(renamed)
        terms = extended(terms, part.terms, change, mask)
        logs = extended(logs, log, change, mask)
    if terms is None and logs is None:
        return None
    return Polynomial(tuple(dims), terms, logs)


def _unchanged(term: Term) -> Term:
    return term


def extended(found: Terms | None, more: Terms | None, change: Any, mask: Any) -> Terms | None:
    """Terms and more of them, changed and times a mask, `None` if either are not known."""
    if found is None or more is None:
        return None
    return found + scale(tuple(map(change, more)), mask)


def _pad(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    value, fill = inputs
    config = equation.params["padding_config"]
    padded = [i for i, (low, high, _) in enumerate(config) if low or high]
    if isinstance(value, Known) and isinstance(fill, Known):
        return interpreter.executed(equation, inputs)[0]
    plain = all(low >= 0 <= high and not inner for low, high, inner in config)
    shape = equation.outvars[0].aval.shape
    if isinstance(value, Opaque) or not isinstance(fill, Known) or not plain:
        return interpreter.opaque("pad", inputs, shape)
    for i in padded:
        low, high, _ = config[i]
        sizes = [axis.size for axis in value.dims]
        pieces: list[tuple[int, Value]] = [(low, value)]
        for start, size in ((0, low), (low + sizes[i], high)):
            if size:
                edge = (*sizes[:i], size, *sizes[i + 1 :])
                pieces.append((start, Known(new_axes(edge), fill.array, ())))
        edged = joined(interpreter, pieces, i, (*sizes[:i], low + sizes[i] + high))
        if edged is None:
            return interpreter.opaque("pad", inputs, shape)
        value = edged
    return value


STRUCTURAL: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "iota": _iota,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "slice": _slice,
    "rev": _reverse,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "concatenate": _concatenate,
    "split": _split,
    "stack": _stack,
    "tile": _tile,
    "pad": _pad,
}
