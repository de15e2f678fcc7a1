"""What arithmetic does to polynomials in latent sites, by primitive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vijax.model.conjugacy.axes import align, broadcast, with_dims, with_shape
from vijax.model.conjugacy.interpreter import Interpreter
from vijax.model.conjugacy.polynomials import (
    add,
    logarithm,
    multiply,
    multiply_terms,
    polynomial,
    power,
    scale,
    sum_over,
    sum_terms,
)
from vijax.model.conjugacy.rules.shapes import Rule, extended
from vijax.model.conjugacy.values import (
    Atom,
    Axis,
    Known,
    Labels,
    Polynomial,
    Term,
    Terms,
    Value,
    is_concrete,
    is_number,
    module_of,
    new_axes,
)


def _same_dims(inputs: Sequence[Any]) -> list[Any]:
    """Operands with the same axes, broadcast: scalars, and axes of length 1."""
    dims = broadcast(*inputs)
    return [with_shape(value, dims) for value in inputs]


def _add(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    one, two = _same_dims(inputs)
    for value, other in ((one, two), (two, one)):
        if _is_everywhere(value, 0):
            return other
    return add(one, two)


def _is_everywhere(value: Value, number: float) -> bool:
    """Whether a value is known to be a number in all places."""
    if not isinstance(value, Known) or not is_number(value.array):
        return False
    return bool(np.all(np.asarray(value.array) == number))


def _negated(value: Known | Polynomial) -> Known | Polynomial | None:
    if isinstance(value, Known):
        return Known(value.dims, -value.array, value.labels)
    minus = (np.asarray(-1.0), ())
    return None if value.terms is None else Polynomial(value.dims, scale(value.terms, minus))


def _sub(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> Value | None:
    one, two = _same_dims(inputs)
    if _is_everywhere(two, 0):
        return one
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
    is_one = _is_everywhere(one, 1)
    (term, *others) = two.terms
    if not is_one or others or term.factors or len(term.atoms) != 1 or term.summed:
        return None
    (atom,) = term.atoms
    plain = atom.kind == "power" and atom.power == 1
    if not plain or interpreter.supports[atom.site] != "unit":
        return None
    return (Term((), (Atom(atom.site, "log1m", 1, atom.entries),)),)


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
    if not isinstance(minus, Polynomial) or not minus.terms:
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
            factors.append((module_of(array).exp(array), labels))
            continue
        if any(labels or not is_concrete(array) for array, labels in term.factors):
            return None
        (atom,) = term.atoms
        exponent = float(np.prod([float(array) for array, _ in term.factors]))
        if atom.kind != "log":
            return None
        atoms.append(Atom(atom.site, "power", exponent, atom.entries))
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
        chosen = module_of(which.array).asarray(which.array).astype(int) == number
        mask = (chosen.astype(float), which.labels)
        if isinstance(case, Known):  # what is not chosen may be infinite
            case = _where_chosen(chosen, which.labels, case)
        terms = extended(terms, polynomial(case).terms, lambda term: term, mask)
        logs = extended(logs, logarithm(case), lambda term: term, mask)
    if terms is None and logs is None:
        return None
    return Polynomial(which.dims, terms, logs)


def _where_chosen(chosen: Any, labels: Labels, case: Known) -> Known:
    both = tuple(a for a in case.dims if a in labels or a in case.labels)
    arrays = align(chosen, labels, both), align(case.array, case.labels, both)
    array = module_of(*arrays).where(*arrays, 1.0)
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
