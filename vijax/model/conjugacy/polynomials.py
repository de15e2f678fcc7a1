"""Polynomials in functions of latent sites, in the form of sums of products over named axes.

A value of a model's program is `sum_terms sum_axes prod_factors prod_atoms`: factors are arrays of
data, atoms functions of one element of a latent site (its value to a power, its logarithm), and
every factor and atom is indexed by named axes, as the operands of an `einsum`. Broadcasting adds
no axis to what it broadcasts, sums and matrix products are deferred, and an access by index
replaces an axis. The expectation of a product is then one `einsum` over expectations of atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Axis:
    """A named axis, equal only to itself."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


Labels = tuple[Axis, ...]


class Index(NamedTuple):
    """Integers `array` with axes `labels`, in place of an axis that they index."""

    array: Any
    labels: Labels


Entry = Axis | Index  # the index along one axis of a site


@dataclasses.dataclass(frozen=True, eq=False)
class Atom:
    """A function of one element of a site.

    Attributes:
        site: its name.
        power: the element to this power; `None` for its logarithm, see `kind`.
        kind: `"power"`, `"log"` or, of a number in the unit interval, `"log1m"`: `log(1 - x)`.
        entries: the index along every axis of the site.
    """

    site: str
    kind: str
    power: float
    entries: tuple[Entry, ...]


Factor = tuple[Any, Labels]  # an array of data and its axes


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A product of factors and atoms, summed over some axes."""

    factors: tuple[Factor, ...] = ()
    atoms: tuple[Atom, ...] = ()
    summed: frozenset[Axis] = frozenset()

    @property
    def labels(self) -> frozenset[Axis]:
        """All axes of its factors and atoms."""
        found = {axis for _, labels in self.factors for axis in labels}
        for atom in self.atoms:
            for entry in atom.entries:
                found.update((entry,) if isinstance(entry, Axis) else entry.labels)
        return frozenset(found)


Terms = tuple[Term, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial in latent sites with output axes `dims`.

    Attributes:
        dims: an axis for every dimension of the value; those of length 1 index nothing.
        terms: its terms, `None` where only the logarithm is a polynomial.
        log_terms: the terms of its logarithm, where that does not follow from a single term.
    """

    dims: Labels
    terms: Terms | None
    log_terms: Terms | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A value that depends on no latent site; its array has no axes along which it is constant."""

    dims: Labels
    array: Any
    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A value that is not known to be a polynomial.

    Attributes:
        dims: its axes.
        function: what it is a function by, in words of the program: `exp`.
        sites: the latent sites it depends on.
        argument: the polynomial that it is an elementwise function of, if it is.
        apply: that function, of arrays of any shape.
    """

    dims: Labels
    function: str
    sites: frozenset[str]
    argument: Polynomial | None = None
    apply: Callable[[Any], Any] | None = None

    @property
    def reason(self) -> str:
        """What it depends on, in words."""
        return f"{self.function}({', '.join(sorted(self.sites))})"


Value = Known | Polynomial | Opaque


def new_axes(shape: Iterable[int]) -> Labels:
    """New axes of these sizes."""
    return tuple(Axis(size) for size in shape)


def known(array: Any) -> Known:
    """An array as a value, axes of length 1 removed."""
    shape = np.shape(array)
    dims = new_axes(shape)
    if 1 in shape:
        array = array.reshape(tuple(size for size in shape if size != 1))
    return Known(dims, array, tuple(axis for axis in dims if axis.size != 1))


def is_concrete(array: Any) -> bool:
    """Whether the numbers of an array are known while the program is traced."""
    return not isinstance(array, jax.core.Tracer)


def sites_of(value: Value) -> frozenset[str]:
    """The latent sites that a value depends on."""
    if isinstance(value, Known):
        return frozenset()
    if isinstance(value, Opaque):
        return value.sites
    terms = (value.terms or ()) + (value.log_terms or ())
    return frozenset(atom.site for term in terms for atom in term.atoms)


# ---- axes


def align(array: Any, labels: Labels, dims: Labels) -> Any:
    """An array with axes `labels` as one with axes `dims`, of length 1 where it has none."""
    order = sorted(range(len(labels)), key=lambda i: dims.index(labels[i]))
    shape = [axis.size if axis in labels else 1 for axis in dims]
    if order != list(range(len(labels))):
        array = jnp.transpose(array, order)
    return array if tuple(np.shape(array)) == tuple(shape) else jnp.reshape(array, shape)


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
        found = jnp.take(jnp.asarray(array), index.array, axis=position, mode="clip")
        return found, (*labels[:position], *index.labels, *labels[position + 1 :])
    out = tuple(dict.fromkeys((*rest, *index.labels)))
    indices = [
        align(index.array, index.labels, out)
        if label is axis
        else align(np.arange(label.size), (label,), out)
        for label in labels
    ]
    return jnp.asarray(array)[tuple(indices)], out


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


def simplified(index: Index) -> Entry:
    """An index along one axis that counts its elements is that axis."""
    if len(index.labels) == 1 and is_concrete(index.array):
        axis = index.labels[0]
        if np.array_equal(index.array, np.arange(axis.size)):
            return axis
    return index


# ---- arithmetic


def polynomial(value: Known | Polynomial) -> Polynomial:
    """A value as a polynomial."""
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
        and np.array_equal(*map(np.asarray, (one.array, two.array)))
    )


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
            factors = tuple(
                (jnp.power(jnp.asarray(a, float), exponent), labels) for a, labels in term.factors
            )
            atoms = tuple(
                dataclasses.replace(a, power=_plain(a.power * exponent)) for a in term.atoms
            )
            terms = (Term(factors, atoms),)
    if value.log_terms is None:
        return None if terms is None else Polynomial(value.dims, terms)
    logs = scale(value.log_terms, (np.asarray(exponent, float), ()))
    return Polynomial(value.dims, terms, logs)


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def logarithm(value: Known | Polynomial) -> Terms | None:
    """The terms of the logarithm of a positive value, `None` if these are not known."""
    if isinstance(value, Known):
        return (Term(((jnp.log(jnp.asarray(value.array, float)), value.labels),)),)
    if value.log_terms is not None:
        return value.log_terms
    if value.terms is None or len(value.terms) != 1 or value.terms[0].summed:
        return None
    return log_of_product(value.terms[0])


def log_of_product(term: Term) -> Terms | None:
    """The logarithm of a product without sums."""
    found = [
        Term(((jnp.log(jnp.asarray(array, float)), labels),)) for array, labels in term.factors
    ]
    for atom in term.atoms:
        if atom.kind != "power":
            return None
        log = dataclasses.replace(atom, kind="log", power=1)
        found.append(Term(((np.asarray(atom.power, float), ()),), (log,)))
    return tuple(found)


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
