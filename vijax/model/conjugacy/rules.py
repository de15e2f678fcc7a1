"""What operations of a program do to polynomials in latent sites, by primitive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vijax.model.conjugacy.interpreter import Interpreter, carried_out, full_array
from vijax.model.conjugacy.polynomials import (
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
    add,
    align,
    is_concrete,
    known,
    logarithm,
    map_terms,
    multiply,
    multiply_terms,
    new_axes,
    polynomial,
    power,
    scale,
    simplified,
    sum_over,
    sum_terms,
    with_argument,
    with_dims,
)

Rule = Callable[[Interpreter, Any, Sequence[Any]], "Value | list[Value] | None"]


# ---- shapes, of data and latents alike


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


def _squeeze(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    dims = inputs[0].dims
    kept = [a for i, a in enumerate(dims) if i not in equation.params["dimensions"]]
    return substitute(interpreter, inputs[0], {}, tuple(kept))


def _restrict(
    interpreter: Interpreter, value: Value, starts: Sequence[int], steps: Sequence[int], shape: Any
) -> Value:
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
    return _restrict(interpreter, inputs[0], starts, steps, shape)


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
        first = jnp.clip(start.array, 0, axis.size - size)
        labels = () if size == 1 else (dims[-1],)
        changes[axis] = Index(first if size == 1 else first + np.arange(size), labels)
    return substitute(interpreter, value, changes, tuple(dims))


def _gather(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    """An access by integer arrays along some axes, whole slices along all others."""
    value, where = inputs
    numbers = equation.params["dimension_numbers"]
    sizes, out = equation.params["slice_sizes"], _out_dims(equation)
    plain = isinstance(where, Known) and set(numbers.start_index_map) <= {
        *numbers.collapsed_slice_dims,
        *numbers.operand_batching_dims,
    }
    if not plain or numbers.operand_batching_dims:
        if isinstance(value, Known) and isinstance(where, Known):
            return carried_out(equation, inputs)[0]
        return interpreter.opaque("gather", inputs, equation.outvars[0].aval.shape)
    batch = [a for i, a in enumerate(out) if i not in numbers.offset_dims]
    dims = list(out)
    kept = [i for i in range(len(sizes)) if i not in numbers.collapsed_slice_dims]
    for i, position in zip(kept, numbers.offset_dims, strict=True):
        if sizes[i] != value.dims[i].size:
            return interpreter.opaque("gather", inputs, equation.outvars[0].aval.shape)
        dims[position] = value.dims[i]
    changes: dict[Axis, Entry] = {}
    for column, i in enumerate(numbers.start_index_map):
        index = _column(interpreter, where, column, tuple(batch))
        if value.dims[i].size > 1:
            changes[value.dims[i]] = simplified(Index(index.array, index.labels))
    return substitute(interpreter, value, changes, tuple(dims))


def _column(interpreter: Interpreter, where: Known, column: int, batch: Labels) -> Known:
    """One of the integers of each access, with axes `batch`; the same object each time."""
    last = where.dims[-1]
    dims = (*batch, last)
    named = with_dims(where, dims)
    assert isinstance(named, Known)
    if last.size == 1:
        return Known(batch, named.array, named.labels)
    found = interpreter.substitution.known(named, last, Index(np.asarray(column), ()), batch)
    return found


def _split(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> list[Value]:
    (value,), axis = inputs, equation.params["axis"]
    found, start = [], 0
    for out in equation.outvars:
        starts = [0] * len(value.dims)
        starts[axis] = start
        start += out.aval.shape[axis]
        found.append(_restrict(interpreter, value, starts, [1] * len(starts), out.aval.shape))
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
        return carried_out(equation, inputs)[0]
    axis, shape = equation.params["axis"], equation.outvars[0].aval.shape
    if any(isinstance(value, Opaque) for value in inputs):
        return interpreter.opaque("stack", inputs, shape)
    pieces = [
        (i, substitute(interpreter, v, {}, (*v.dims[:axis], Axis(1), *v.dims[axis:])))
        for i, v in enumerate(inputs)
    ]
    found = _joined(interpreter, pieces, axis, shape)
    return interpreter.opaque("stack", inputs, shape) if found is None else found


def _concatenate(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value:
    if all(isinstance(value, Known) for value in inputs):
        return carried_out(equation, inputs)[0]
    axis_number, shape = equation.params["dimension"], equation.outvars[0].aval.shape
    if any(isinstance(value, Opaque) for value in inputs):
        return interpreter.opaque("concatenate", inputs, shape)
    pieces, start = [], 0
    for value in inputs:
        pieces.append((start, value))
        start += value.dims[axis_number].size
    found = _joined(interpreter, pieces, axis_number, shape)
    return interpreter.opaque("concatenate", inputs, shape) if found is None else found


def _joined(
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
        change = functools.partial(interpreter.substitution.term, axis=own, entry=place)
        part = polynomial(renamed)
        log = logarithm(renamed)
        if own.size == 1:
            change = lambda term: term  # noqa: E731
        terms = _extended(terms, part.terms, change, mask)
        logs = _extended(logs, log, change, mask)
    if terms is None and logs is None:
        return None
    return Polynomial(tuple(dims), terms, logs)


def _extended(found: Terms | None, more: Terms | None, change: Any, mask: Any) -> Terms | None:
    if found is None or more is None:
        return None
    return found + scale(tuple(map(change, more)), mask)


def _pad(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    value, fill = inputs
    config = equation.params["padding_config"]
    padded = [i for i, (low, high, _) in enumerate(config) if low or high]
    if isinstance(value, Known) and isinstance(fill, Known):
        return carried_out(equation, inputs)[0]
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
        joined = _joined(interpreter, pieces, i, (*sizes[:i], low + sizes[i] + high))
        if joined is None:
            return interpreter.opaque("pad", inputs, shape)
        value = joined
    return value


STRUCTURAL: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
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


# ---- arithmetic with at least one latent


def _same_dims(inputs: Sequence[Any]) -> list[Any]:
    """Operands with the same axes; scalars broadcast."""
    dims = next((v.dims for v in inputs if v.dims), ())
    found = []
    for value in inputs:
        if value.dims or not dims:
            found.append(with_dims(value, dims))
        elif isinstance(value, Known):
            found.append(Known(dims, value.array, ()))
        else:
            found.append(map_terms(value, lambda term: term, dims))
    return found


def _add(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    return add(*_same_dims(inputs))


def _negated(value: Known | Polynomial) -> Known | Polynomial | None:
    if isinstance(value, Known):
        return Known(value.dims, -value.array, value.labels)
    minus = (np.asarray(-1.0), ())
    return None if value.terms is None else Polynomial(value.dims, scale(value.terms, minus))


def _sub(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    one, two = _same_dims(inputs)
    minus = _negated(two)
    found = None if minus is None else add(one, minus)
    log = _log_of_complement(interpreter, one, two)
    if log is None or found is None:
        return found
    return Polynomial(found.dims, found.terms, log)


def _log_of_complement(interpreter: Interpreter, one: Value, two: Value) -> Terms | None:
    """The logarithm of `1 - x` for a site `x` in the unit interval."""
    if not isinstance(one, Known) or not isinstance(two, Polynomial) or not two.terms:
        return None
    is_one = is_concrete(one.array) and bool(np.all(np.asarray(one.array) == 1))
    (term, *others) = two.terms
    if not is_one or others or term.factors or len(term.atoms) != 1 or term.summed:
        return None
    (atom,) = term.atoms
    plain = atom.kind == "power" and atom.power == 1
    if not plain or interpreter.supports[atom.site] != "unit":
        return None
    return (Term((), (type(atom)(atom.site, "log1m", 1, atom.entries),)),)


def _mul(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    return multiply(*_same_dims(inputs))


def _div(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    one, two = _same_dims(inputs)
    if isinstance(two, Known):
        return multiply(one, Known(two.dims, 1.0 / two.array, two.labels))
    inverse = _power(interpreter, two, -1)
    return None if inverse is None else multiply(one, inverse)


def _neg(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    return _negated(inputs[0])


def _power(interpreter: Interpreter, value: Polynomial, exponent: float) -> Polynomial | None:
    """A power of positive sites; of others a square, by multiplication."""
    if exponent == 2:
        return multiply(value, value)
    terms = value.terms or ()
    real = any(interpreter.supports[a.site] == "real" for t in terms for a in t.atoms)
    return None if real and exponent != 1 else power(value, exponent)


def _by_power(exponent: float) -> Rule:
    def rule(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
        return _power(interpreter, inputs[0], exponent)

    return rule


def _integer_pow(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    return _power(interpreter, inputs[0], equation.params["y"])


def _pow(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    base, exponent = inputs
    if not isinstance(exponent, Known) or not is_concrete(exponent.array) or exponent.labels:
        return None
    return _power(interpreter, base, float(exponent.array))


def _log(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    if not is_positive(interpreter, inputs[0]):
        return None
    log = logarithm(inputs[0])
    return None if log is None else Polynomial(inputs[0].dims, log)


def is_positive(interpreter: Interpreter, value: Polynomial) -> bool:
    """Whether all latent sites of a value are positive."""
    terms = (value.terms or ()) + (value.log_terms or ())
    return all(interpreter.supports[a.site] != "real" for t in terms for a in t.atoms)


def _log1p(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    (value,) = inputs
    minus = _negated(value)
    if minus is None:
        return None
    (term, *others) = minus.terms
    # -(-x) has factors of -1 twice
    signs = [array for array, labels in term.factors if not labels and is_concrete(array)]
    if others or len(signs) != len(term.factors) or np.prod([float(s) for s in signs]) != 1:
        return None
    plain = Polynomial(value.dims, (Term((), term.atoms, term.summed),))
    one = Known(value.dims, np.asarray(1.0), ())
    log = _log_of_complement(interpreter, one, plain)
    return None if log is None else Polynomial(value.dims, log)


def _exp(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    """The exponential of a sum of logarithms."""
    (value,) = inputs
    if value.terms is None:
        return None
    atoms = [atom for term in value.terms for atom in term.atoms]
    if any(len(t.atoms) > 1 for t in value.terms) or any(a.kind == "power" for a in atoms):
        return None
    return Polynomial(value.dims, _product(value.terms), value.terms)


def _product(logs: Terms) -> Terms | None:
    """A product from its logarithm, if all exponents are known numbers."""
    factors, atoms = [], []
    for term in logs:
        if term.summed:
            return None
        if not term.atoms:
            array = 1.0
            labels = tuple(dict.fromkeys(a for _, names in term.factors for a in names))
            if len(term.factors) != 1:
                return None
            ((array, labels),) = term.factors
            factors.append((jnp.exp(array), labels))
            continue
        if any(labels or not is_concrete(array) for array, labels in term.factors):
            return None
        (atom,) = term.atoms
        exponent = float(np.prod([float(array) for array, _ in term.factors]))
        if atom.kind != "log":
            return None
        atoms.append(type(atom)(atom.site, "power", exponent, atom.entries))
    return (Term(tuple(factors), tuple(atoms)),)


def _reduce_sum(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    (value,), axes = inputs, equation.params["axes"]
    dims = tuple(a for i, a in enumerate(value.dims) if i not in axes)
    return sum_over(value, [value.dims[i] for i in axes], dims)


def _reduce_prod(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    (value,), axes = inputs, equation.params["axes"]
    log = logarithm(value) if is_positive(interpreter, value) else None
    dims = tuple(a for i, a in enumerate(value.dims) if i not in axes)
    if log is None:
        return None
    return Polynomial(dims, None, sum_terms(log, tuple(value.dims[i] for i in axes)))


def _cumulated(interpreter: Interpreter, equation: Any, value: Value, terms: Terms) -> Terms:
    axis = value.dims[equation.params["axis"]]
    old = Axis(axis.size)
    order = np.triu if equation.params["reverse"] else np.tril
    below = (order(np.ones((axis.size, axis.size))), (axis, old))
    moved = tuple(interpreter.substitution.term(term, axis, old) for term in terms)
    return sum_terms(scale(moved, below), (old,))


def _cumsum(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    (value,) = inputs
    if value.terms is None:
        return None
    return Polynomial(value.dims, _cumulated(interpreter, equation, value, value.terms))


def _cumprod(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    (value,) = inputs
    log = logarithm(value) if is_positive(interpreter, value) else None
    if log is None:
        return None
    return Polynomial(value.dims, None, _cumulated(interpreter, equation, value, log))


def _dot_general(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    one, two = inputs
    (contract_one, contract_two), (batch_one, batch_two) = equation.params["dimension_numbers"]
    new = list(new_axes(axis.size for axis in two.dims))  # as for a value times itself
    pairs = zip((*contract_one, *batch_one), (*contract_two, *batch_two), strict=True)
    for i, j in pairs:
        new[j] = one.dims[i]
    two = with_dims(two, tuple(new))
    rest_one = [a for i, a in enumerate(one.dims) if i not in (*contract_one, *batch_one)]
    rest_two = [a for i, a in enumerate(two.dims) if i not in (*contract_two, *batch_two)]
    dims = (*(one.dims[i] for i in batch_one), *rest_one, *rest_two)
    first, second = polynomial(one), polynomial(two)
    if first.terms is None or second.terms is None:
        return None
    terms = tuple(multiply_terms(t, u) for t in first.terms for u in second.terms)
    return Polynomial(dims, sum_terms(terms, tuple(one.dims[i] for i in contract_one)))


def _select_n(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    which, *cases = _same_dims(inputs)
    if not isinstance(which, Known) or len(cases) != 2:
        return None
    terms: Terms | None = ()
    logs: Terms | None = ()
    for number, case in enumerate(cases):
        chosen = jnp.asarray(which.array).astype(int) == number
        mask = (chosen.astype(float), which.labels)
        if isinstance(case, Known):  # what is not chosen may be infinite
            case = _where_chosen(chosen, which.labels, case)
        terms = _extended(terms, polynomial(case).terms, lambda term: term, mask)
        logs = _extended(logs, logarithm(case), lambda term: term, mask)
    if terms is None and logs is None:
        return None
    return Polynomial(which.dims, terms, logs)


def _where_chosen(chosen: Any, labels: Labels, case: Known) -> Known:
    both = tuple(a for a in case.dims if a in labels or a in case.labels)
    array = jnp.where(align(chosen, labels, both), align(case.array, case.labels, both), 1.0)
    return Known(case.dims, array, both)


def _identity(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    return inputs[0]


def _convert(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    floating = jnp.issubdtype(equation.params["new_dtype"], jnp.floating)
    return inputs[0] if floating else None


RULES: dict[str, Rule] = {
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "square": _by_power(2),
    "sqrt": _by_power(0.5),
    "rsqrt": _by_power(-0.5),
    "log": _log,
    "log1p": _log1p,
    "exp": _exp,
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "cumsum": _cumsum,
    "cumprod": _cumprod,
    "dot_general": _dot_general,
    "select_n": _select_n,
    "convert_element_type": _convert,
    "copy": _identity,
}
