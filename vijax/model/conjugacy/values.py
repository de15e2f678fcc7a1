"""Values of a program: polynomials in latent sites, as sums of products over named axes.

A value is `sum_terms sum_axes prod_factors prod_atoms`: factors are arrays of
data, atoms functions of one element of a latent site (its value to a power, its logarithm), and
every factor and atom is indexed by named axes, as the operands of an `einsum`. Broadcasting adds
no axis to what it broadcasts, sums and matrix products are deferred, and an access by index
replaces an axis. The expectation of a product is then one `einsum` over expectations of atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
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
        kind: `"power"`, `"log"`, of a number in the unit interval `"log1m"`: `log(1 - x)`, or of a
            matrix `"logdet"`.
        power: of `"power"`, the exponent; 1 for other kinds.
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


def is_number(array: Any) -> bool:
    """Whether NumPy has the type of an array whose numbers are known."""
    if not is_concrete(array):
        return False
    dtype = getattr(array, "dtype", np.dtype(float))
    return not jnp.issubdtype(dtype, jax.dtypes.extended)


def module_of(*arrays: Any) -> Any:
    """NumPy for arrays whose numbers are known, JAX's for others."""
    return np if all(map(is_number, arrays)) else jnp


def broadcast_to(array: Any, shape: tuple[int, ...]) -> Any:
    """An array broadcast to a shape."""
    return module_of(array).broadcast_to(array, shape)


def log(array: Any) -> Any:
    """The logarithm of an array of numbers."""
    module = module_of(array)
    with np.errstate(all="ignore"):
        return module.log(module.asarray(array, float))


def sites_of(value: Value) -> frozenset[str]:
    """The latent sites that a value depends on."""
    if isinstance(value, Known):
        return frozenset()
    if isinstance(value, Opaque):
        return value.sites
    terms = (value.terms or ()) + (value.log_terms or ())
    return frozenset(atom.site for term in terms for atom in term.atoms)
