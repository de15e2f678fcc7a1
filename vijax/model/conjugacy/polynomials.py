"""Sums, products, powers and logarithms of polynomials in latent sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from vijax.model.conjugacy.axes import same_entries, with_dims, with_new_sums
from vijax.model.conjugacy.values import (
    Atom,
    Axis,
    Factor,
    Known,
    Labels,
    Opaque,
    Polynomial,
    Term,
    Terms,
    Value,
    log,
    module_of,
)


def polynomial(value: Value) -> Polynomial:
    """A value, not an opaque one, as a polynomial."""
    assert not isinstance(value, Opaque)
    if isinstance(value, Polynomial):
        return value
    return Polynomial(value.dims, (Term(((value.array, value.labels),)),))


def add(one: Known | Polynomial, two: Known | Polynomial) -> Polynomial | None:
    """The sum, `None` if it is not a polynomial."""
    first, second = polynomial(one), polynomial(with_dims(two, one.dims))
    if first.terms is None or second.terms is None:
        return None
    return Polynomial(first.dims, first.terms + second.terms)


def scale(terms: Terms, factor: Factor) -> Terms:
    """Terms times an array."""
    return tuple(dataclasses.replace(t, factors=(*t.factors, factor)) for t in terms)


def multiply_terms(one: Term, two: Term) -> Term:
    """The product of two terms with common output axes."""
    two = with_new_sums(two)
    return Term(one.factors + two.factors, merged(one.atoms + two.atoms), one.summed | two.summed)


def merged(atoms: tuple[Atom, ...]) -> tuple[Atom, ...]:
    """Atoms with powers of the same positive element multiplied."""
    found: list[Atom] = []
    for atom in atoms:
        for i, other in enumerate(found):
            alike = atom.site == other.site and atom.kind == other.kind == "power"
            if alike and same_entries(atom.entries, other.entries):
                power = atom.power + other.power
                found[i] = dataclasses.replace(other, power=power)
                break
        else:
            found.append(atom)
    return tuple(atom for atom in found if atom.kind != "power" or atom.power != 0)


def multiply(one: Known | Polynomial, two: Known | Polynomial) -> Polynomial | None:
    """The product, `None` if neither it nor its logarithm is a polynomial."""
    first, second = polynomial(one), polynomial(with_dims(two, one.dims))
    terms = log_terms = None
    if first.terms is not None and second.terms is not None:
        terms = tuple(multiply_terms(t, u) for t in first.terms for u in second.terms)
    if first.log_terms is not None or second.log_terms is not None:
        logs = logarithm(first), logarithm(second)
        if logs[0] is not None and logs[1] is not None:
            log_terms = logs[0] + logs[1]
    if terms is None and log_terms is None:
        return None
    return Polynomial(first.dims, terms, log_terms)


def power(value: Polynomial, exponent: float) -> Polynomial | None:
    """The power of a product of positive numbers, `None` for anything else."""
    if exponent == 1:
        return value
    terms = None
    if value.terms is not None and len(value.terms) == 1 and not value.terms[0].summed:
        (term,) = value.terms
        if all(atom.kind == "power" for atom in term.atoms):
            factors = tuple((_raised(a, exponent), labels) for a, labels in term.factors)
            atoms = tuple(
                dataclasses.replace(a, power=_plain(a.power * exponent)) for a in term.atoms
            )
            terms = (Term(factors, atoms),)
    if value.log_terms is None:
        return None if terms is None else Polynomial(value.dims, terms)
    logs = scale(value.log_terms, (np.asarray(exponent, float), ()))
    return Polynomial(value.dims, terms, logs)


def _raised(array: Any, exponent: float) -> Any:
    module = module_of(array)
    with np.errstate(all="ignore"):
        return module.power(module.asarray(array, float), exponent)


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def logarithm(value: Value) -> Terms | None:
    """The terms of the logarithm of a positive value, `None` if these are not known."""
    if isinstance(value, Opaque):
        return None
    if isinstance(value, Known):
        return (Term(((log(value.array), value.labels),)),)
    if value.log_terms is not None:
        return value.log_terms
    if value.terms is None or len(value.terms) != 1 or value.terms[0].summed:
        return None
    return log_of_product(value.terms[0])


def log_of_product(term: Term) -> Terms | None:
    """The logarithm of a product without sums."""
    found = [Term(((log(array), labels),)) for array, labels in term.factors]
    for atom in term.atoms:
        if atom.kind != "power":
            return None
        found.append(Term(((np.asarray(atom.power, float), ()),), (of_log(atom),)))
    return tuple(found)


def of_log(atom: Atom) -> Atom:
    """The logarithm of the element of which an atom is a power."""
    return dataclasses.replace(atom, kind="log", power=1)


def sum_over(value: Polynomial, axes: Iterable[Axis], dims: Labels) -> Polynomial | None:
    """The sum over some axes."""
    if value.terms is None:
        return None
    return Polynomial(dims, sum_terms(value.terms, tuple(axes)))


def sum_terms(terms: Terms, axes: Labels) -> Terms:
    """Terms summed over axes; along those that a term does not have it is repeated."""
    found = []
    for term in terms:
        present = [axis for axis in axes if axis in term.labels]
        repeats = int(np.prod([axis.size for axis in axes if axis not in present], initial=1))
        factors = (
            term.factors if repeats == 1 else (*term.factors, (np.asarray(repeats, float), ()))
        )
        found.append(Term(factors, term.atoms, term.summed | frozenset(present)))
    return tuple(found)
