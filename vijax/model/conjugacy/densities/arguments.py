"""Arguments of distributions as polynomials: differences, powers, products, elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.model.conjugacy.axes import Substitution, broadcast, map_terms, with_shape
from vijax.model.conjugacy.expectation import Expectation, NotConjugate
from vijax.model.conjugacy.interpreter import full_array
from vijax.model.conjugacy.polynomials import add, multiply, power, scale
from vijax.model.conjugacy.values import (
    Atom,
    Axis,
    Index,
    Known,
    Opaque,
    Polynomial,
    Term,
    Value,
    known,
)

Arguments = Mapping[str, Value]


Row = Callable[[Expectation, Arguments, Value], Array]


def data(value: Value, name: str) -> Array:
    """The array of an argument that must not depend on latent sites."""
    if isinstance(value, Known):
        return jnp.asarray(full_array(value))
    words = value.reason if isinstance(value, Opaque) else words_of(value)
    raise NotConjugate(f"depends on {words}; this distribution has no conjugate form for it", name)


def words_of(value: Polynomial) -> str:
    """The latent sites of a polynomial, in words."""
    terms = (value.terms or ()) + (value.log_terms or ())
    return ", ".join(sorted({atom.site for term in terms for atom in term.atoms}))


def raised(value: Value, exponent: float, name: str) -> Known | Polynomial:
    """A positive argument to a power."""
    if isinstance(value, Known):
        return Known(value.dims, jnp.power(jnp.asarray(value.array, float), exponent), value.labels)
    if isinstance(value, Opaque):
        raise NotConjugate(f"depends on {value.reason}", name)
    found = power(value, exponent)
    if found is None:
        raise NotConjugate(f"is a sum over {words_of(value)}, of which it needs a power", name)
    return found


def difference(one: Value, two: Value, name: str) -> Known | Polynomial:
    """`one - two`."""
    dims = broadcast(one, two)
    first, second = with_shape(one, dims), with_shape(two, dims)
    for value in (first, second):
        if isinstance(value, Opaque):
            raise NotConjugate(f"depends on {value.reason}", name)
    assert not isinstance(first, Opaque)
    assert not isinstance(second, Opaque)
    if isinstance(second, Known):
        minus: Known | Polynomial = Known(dims, -jnp.asarray(second.array, float), second.labels)
    elif second.terms is None:
        raise NotConjugate(f"is a product over {words_of(second)} that enters in a square", name)
    else:
        minus = Polynomial(dims, scale(second.terms, (np.asarray(-1.0), ())))
    found = add(first, minus)
    if found is None:
        raise NotConjugate("is a product over many elements that enters in a square", name)
    return found


def times(one: Value, two: Value) -> Value:
    """The product of two values."""
    dims = broadcast(one, two)
    first, second = with_shape(one, dims), with_shape(two, dims)
    for value in (first, second):
        if isinstance(value, Opaque):
            return value
    assert not isinstance(first, Opaque)
    assert not isinstance(second, Opaque)
    found = multiply(first, second)
    if found is None:
        raise NotConjugate("is a product of which neither factors nor logarithm are known")
    return found


def times_log(count: Array, log: Array) -> Array:
    """`count log`, zero for a count of zero also of a logarithm that is not finite."""
    return jnp.where(count == 0, 0.0, count * jnp.where(count == 0, 0.0, log))


def complement(expectation: Expectation, value: Value) -> Array:
    """`E log(1 - p)` of a probability."""
    if isinstance(value, Known):
        return jnp.log1p(-jnp.asarray(full_array(value)))
    if isinstance(value, Polynomial) and value.terms is not None and len(value.terms) == 1:
        (term,) = value.terms
        if not term.factors and len(term.atoms) == 1 and not term.summed:
            (atom,) = term.atoms
            if atom.kind == "power" and atom.power == 1:
                log = Atom(atom.site, "log1m", 1, atom.entries)
                return expectation.mean(Polynomial(value.dims, (Term((), (log,)),)))
    if isinstance(value, Opaque):
        raise NotConjugate(f"depends on {value.reason}")
    original = _one_minus(value)
    if original is None:
        raise NotConjugate(f"is a function of {words_of(value)}, and log(1 - it) is needed")
    return expectation.log(original)


def _one_minus(value: Polynomial) -> Polynomial | None:
    """`p` of a value `1 - p` with a site `p` in the unit interval."""
    logs = value.log_terms
    if logs is None or len(logs) != 1 or len(logs[0].atoms) != 1:
        return None
    (atom,) = logs[0].atoms
    if atom.kind != "log1m" or logs[0].factors:
        return None
    return Polynomial(value.dims, (Term((), (Atom(atom.site, "power", 1, atom.entries),)),))


def at(value: Value, index: Array | Value, axis: int = -1) -> Value:
    """The elements of a value at integers along an axis; they broadcast with the other axes."""
    position = axis % len(value.dims)
    where = index if isinstance(index, Known) else known(jnp.asarray(index))
    own = value.dims[position]
    rest = (*value.dims[:position], *value.dims[position + 1 :])
    outer = broadcast(Known(rest, 0, ()), where)
    spread = with_shape(where, outer)
    assert isinstance(spread, Known)
    inside = with_shape(map_dims(value, (*rest, own)), (*outer, own))
    if own.size == 1:
        return map_dims(inside, outer)
    change = Substitution()
    entry = Index(jnp.asarray(spread.array, int), spread.labels)
    if isinstance(inside, Known):
        return change.known(inside, inside.dims[-1], entry, outer)
    if isinstance(inside, Opaque):
        return Opaque(outer, inside.function, inside.sites)
    last = inside.dims[-1]
    return map_terms(inside, lambda term: change.term(term, last, entry), outer)


def part(value: Value, start: int, size: int) -> Value:
    """Consecutive elements of a value along its last axis."""
    last, new = value.dims[-1], Axis(size)
    dims = (*value.dims[:-1], new)
    places = start + np.arange(size)
    entry = Index(places[0], ()) if size == 1 else Index(places, (new,))
    change = Substitution()
    if isinstance(value, Known):
        return change.known(value, last, entry, dims)
    if isinstance(value, Opaque):
        return Opaque(dims, value.function, value.sites)
    return map_terms(value, lambda term: change.term(term, last, entry), dims)


def map_dims(value: Value, dims: tuple[Axis, ...]) -> Value:
    """A value with its axes in another order."""
    if isinstance(value, Known):
        return Known(dims, value.array, value.labels)
    if isinstance(value, Opaque):
        return Opaque(dims, value.function, value.sites)
    return map_terms(value, lambda term: term, dims)
