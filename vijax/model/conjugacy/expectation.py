"""Expectations of polynomials in latent sites under independent blocks.

`E` of a product factorizes over blocks. A Gaussian block gives `E z_i z_j = m_i m_j + C_ij`, every
other block the expectations of its sufficient statistics alone; a product for which a block has no
expectation is not conjugate. Quadratic forms are in central form, `E w (c - z)^2 = E w ((c - m)^2 +
C)`, so that single precision suffices.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from vijax.model.conjugacy.axes import (
    Live,
    align,
    broadcast,
    broadcast_dims,
    live,
    rename,
    with_dims,
    with_shape,
)
from vijax.model.conjugacy.contraction import contract, named, view
from vijax.model.conjugacy.log_sums import LogFactor, log_of_sum
from vijax.model.conjugacy.notes import Notes
from vijax.model.conjugacy.polynomials import log_of_product, logarithm, of_log, polynomial
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
    sites_of,
)


class NotConjugate(Exception):
    """What is not conditionally conjugate about a distribution.

    Attributes:
        reason: in words.
        argument: of the distribution, `""` for the distribution itself.
    """

    def __init__(self, reason: str, argument: str = "") -> None:
        super().__init__(reason)
        self.reason, self.argument = reason, argument


class Expectation(Notes, abc.ABC):
    """`E_q` of values of a program; subclasses know the blocks of `q`.

    Attributes:
        site: the sample site whose density is read, `""` before the first.
        argument: that of its distribution, `""` for the distribution itself.
        averaged: whether `quadratic` and `form` are averaged over their dimensions, which become
            of length 1. Enough where only the sum of what is affine in them is needed, and faster:
            `sum_i x_i' C x_i` is `tr(C sum_i x_i x_i')`, a sum over data that loops leave out.
    """

    site: str = ""
    argument: str = ""
    averaged: bool = False

    @contextlib.contextmanager
    def about(self, argument: str) -> Iterator[None]:
        """Attributes to an argument of the distribution what is read and what is not conjugate."""
        outer, self.argument = self.argument, argument
        try:
            yield
        except NotConjugate as error:
            raise NotConjugate(error.reason, error.argument or argument) from None
        finally:
            self.argument = outer

    @abc.abstractmethod
    def table(self, atom: Atom) -> Array:
        """The expectations of an atom at all elements of its site.

        Raises:
            NotConjugate: the block of the site has none.
        """

    def first(self, atom: Atom) -> Factor:
        """The expectation of an atom."""
        return view(self.table(atom), atom.entries)

    @abc.abstractmethod
    def covariance(
        self, one: Atom, two: Atom, weight: Atom | None, where: Live
    ) -> list[Factor] | None:
        """`Cov(one, two)` as a product of arrays, `None` if it is zero.

        With `weight` in a joint block with both, `E[weight (one - E one)(two - E two)]`. Positions
        along an axis that are not in `where` do not count.

        Raises:
            NotConjugate: the block has no second moments.
        """

    @abc.abstractmethod
    def joint(self, weight: Atom, atom: Atom) -> bool:
        """Whether two atoms are in a joint block of a location and its precision."""

    # ---- expectations of values

    def mean(self, value: Value) -> Array:
        """`E[value]`, with its dimensions, of length 1 where it is constant."""
        if isinstance(value, Polynomial):
            self.alone(value)
        return self._mean(value)

    def _mean(self, value: Value) -> Array:
        value = proved(value)
        if isinstance(value, Known):
            return align(value.array, value.labels, value.dims)
        if value.terms is None:
            raise NotConjugate(
                f"is a product over many elements of {_words(value)}, and its mean is needed"
            )
        return self._sum([self._term(term, value.dims) for term in value.terms], value.dims)

    def log(self, value: Value, additive: bool = False, needed: Array | None = None) -> Array:
        """`E[log value]` of a product of positive sites.

        Args:
            value: the value.
            additive: whether a sum of such products is allowed, with the bound
                `E log sum_k a_k >= log sum_k exp(E log a_k)`, that of the latent counts of each
                part with their optimal distribution; for terms that enter with positive weight.
            needed: which elements matter; by default all.
        """
        value = proved(value)
        if isinstance(value, Known):
            return align(jnp.log(value.array), value.labels, value.dims)
        logs = logarithm(value)
        if logs is not None:
            return self.mean(Polynomial(value.dims, logs))
        if not additive or value.terms is None:
            raise NotConjugate(f"is a sum over {_words(value)}, and its logarithm is needed")
        self.augmented("the part of each term of a sum")
        parts = [self._log_part(term, value.dims, needed) for term in value.terms]
        shape = np.broadcast_shapes(*(np.shape(part) for part in parts))
        parts = [jnp.broadcast_to(part, shape) for part in parts]
        return parts[0] if len(parts) == 1 else logsumexp(jnp.stack(parts), axis=0)

    def _log_part(self, term: Term, dims: Labels, needed: Array | None) -> Array:
        """`log sum exp(E log product)` of one term over the axes that it is summed over."""
        logs = log_of_product(dataclasses.replace(term, summed=frozenset()))
        if logs is None:
            raise NotConjugate(f"is a sum over {_sites((term,))}, and its logarithm is needed")
        if not term.summed:
            return self.mean(Polynomial(dims, logs))
        self.summed(term)
        data = [LogFactor(jnp.asarray(log(array), float), own) for array, own in term.factors]
        sites = [
            LogFactor(atom.power * self.table(of_log(atom)), atom.entries) for atom in term.atoms
        ]
        return log_of_sum([*data, *sites], dims, term.summed, needed)

    def quadratic(self, weight: Value, value: Value) -> Array:
        """`E[weight * value^2]`."""
        dims = broadcast(weight, value)
        factor, base = (polynomial(proved(with_shape(v, dims))) for v in (weight, value))
        return self._square(factor, base, base, dims, ())

    def variance(self, value: Polynomial) -> Array:
        """`Var(value)` of a sum of normal sites times data."""
        one = Term()
        parts = [
            part
            for t, u in itertools.product(value.terms or (), value.terms or ())
            for part in self._covariances(one, [], t, u, value.dims, frozenset())
        ]
        return self._sum(parts, value.dims)

    def normal(self, value: Polynomial, function: Callable[[Array], Array], points: int) -> Array:
        """`E function(value)` of a sum of normal sites times data, by Gauss-Hermite quadrature.

        Args:
            value: the sum.
            function: of an array with its dimensions, those of length 1 where it is constant.
            points: of the quadrature.
        """
        self.quadrature()
        mean, variance = self.mean(value), self.variance(value)
        shape = np.broadcast_shapes(mean.shape, variance.shape)
        x, weights = nodes(points)
        at = mean + safe_sqrt(variance) * x.reshape((-1,) + (1,) * len(shape))
        return jnp.tensordot(jnp.asarray(weights, mean.dtype), jax.vmap(function)(at), axes=1)

    def form(self, matrix: Value, value: Value) -> Array:
        """`E[value' matrix value]` over the last axis of `value`."""
        *batch, row, column = proved(matrix).dims
        row, column = (axis if axis.size > 1 else Axis(1) for axis in (row, column))
        outer = broadcast_dims(tuple(batch), value.dims[:-1])
        matrix = with_shape(matrix, (*outer, *matrix.dims[-2:]))
        matrix = with_dims(matrix, (*outer, row, column))
        one = with_dims(with_shape(proved(value), (*outer, value.dims[-1])), (*outer, row))
        two = with_dims(one, (*outer, column))
        summed = tuple(axis for axis in (row, column) if axis.size > 1)
        operands = polynomial(matrix), polynomial(one), polynomial(two)
        return self._square(*operands, outer, summed)

    def _square(
        self, weight: Polynomial, one: Polynomial, two: Polynomial, dims: Labels, summed: Labels
    ) -> Array:
        """`E[weight * one * two]` with dimensions `dims`, summed over axes `summed`."""
        if weight.terms is None or one.terms is None or two.terms is None:
            raise NotConjugate("is a product over many elements that enters in a square")
        self._check_separate(weight, one)
        means = [self._product_of_means(w) for w in weight.terms]
        left, right = (self._named_mean(value, summed) for value in (one, two))
        parts, kept, long = [], dims, frozenset[Axis]()
        if self.averaged:
            kept, long = (), frozenset(axis for axis in dims if axis.size > 1)
        first = summed[:1]
        for mean, coefficient in zip(means, weight.terms, strict=True):
            axes = coefficient.summed | frozenset(summed)
            # first the product of matrix and vector, where there is one
            inner = contract([*mean, right], (*first, *dims), axes - frozenset(first))
            product = named(inner, (*first, *dims))
            parts.append(contract([product, left], kept, long | frozenset(first)))
            for t, u in itertools.product(one.terms, two.terms):
                parts += self._covariances(coefficient, mean, t, u, kept, axes | long)
        total = self._sum(parts, kept) / math.prod(axis.size for axis in long)
        return jnp.reshape(total, (1,) * len(dims)) if self.averaged else total

    def _covariances(
        self,
        weight: Term,
        mean: list[Factor],
        one: Term,
        two: Term,
        dims: Labels,
        summed: frozenset[Axis],
    ) -> Iterator[Array]:
        """The parts of `E[weight one two] - E[weight] E[one] E[two]`."""
        two = rename(two, {axis: Axis(axis.size) for axis in two.summed})
        where = live((*weight.factors, *one.factors, *two.factors))
        if not all(kept.any() for kept in where.values()):
            return
        pairs = self._pairs(one, two, where)
        for size in range(1, len(pairs) + 1):
            for chosen in itertools.combinations(pairs, size):
                operands = self._chosen(weight, mean, chosen, where)
                if operands is None:
                    continue
                inside = {id(atom) for pair in chosen for atom in pair}
                rest = [a for a in (*one.atoms, *two.atoms) if id(a) not in inside]
                operands += [*one.factors, *two.factors, *map(self.first, rest)]
                yield contract(operands, dims, summed | one.summed | two.summed)

    def _pairs(self, one: Term, two: Term, where: Live) -> list[tuple[Atom, Atom]]:
        """Atoms of two terms that may depend on one another."""
        self._check_products(one, two)
        self.multiplied(one.atoms)
        self.multiplied(two.atoms)
        self.together([*one.atoms, *two.atoms])
        return [
            (a, b)
            for a, b in itertools.product(one.atoms, two.atoms)
            if self.covariance(a, b, None, where) is not None
        ]

    def _chosen(
        self, weight: Term, mean: list[Factor], chosen: Sequence[tuple[Atom, Atom]], where: Live
    ) -> list[Factor] | None:
        """The weight times the covariances of some pairs."""
        operands, joint = [], False
        for a, b in chosen:
            atom = next((w for w in weight.atoms if self.joint(w, a)), None)
            joint |= atom is not None
            found = self.covariance(a, b, atom, where)
            if found is None:
                return None
            operands += found
        if not joint:
            return [*mean, *operands]
        return [*weight.factors, *operands]

    def _named_mean(self, value: Polynomial, summed: Labels) -> Factor:
        """`E[value]`, axes to sum over in front: products of long rows are then vectorized."""
        front = tuple(axis for axis in value.dims if axis in summed)
        dims = (*front, *(axis for axis in value.dims if axis not in summed))
        return named(self._mean(dataclasses.replace(value, dims=dims)), dims)

    def _check_separate(self, weight: Polynomial, value: Polynomial) -> None:
        common = sites_of(weight) & sites_of(value)
        if common:
            raise NotConjugate(
                f"and another argument both depend on {', '.join(sorted(common))}, which makes "
                "their product no statistic of one family"
            )
        for w in weight.terms or ():
            for term in value.terms or ():
                self.together([*w.atoms, *term.atoms])
                self.weighted(w, term)

    def _check_products(self, *terms: Term) -> None:
        """Checks that no term of a square has two elements of a site, which may be dependent."""
        for term in terms:
            for a, b in itertools.combinations(term.atoms, 2):
                if a.site == b.site:
                    raise NotConjugate(f"multiplies elements of {a.site} with one another")

    def _product_of_means(self, term: Term) -> list[Factor]:
        names = [atom.site for atom in term.atoms]
        if len(set(names)) < len(names):
            raise NotConjugate(f"multiplies {', '.join(sorted(set(names)))} with itself")
        self.together(term.atoms)
        return [*term.factors, *map(self.first, term.atoms)]

    def _term(self, term: Term, dims: Labels) -> Array:
        """`E` of a term, with at most one block that enters twice."""
        atoms = [part for atom in term.atoms for part in self._split(atom)]
        self.together(atoms)
        where = live(term.factors)
        twice = [
            (a, b)
            for a, b in itertools.combinations(atoms, 2)
            if a.site == b.site or self.covariance(a, b, None, where) is not None
        ]
        if len(atoms) > 2 and twice:
            raise NotConjugate(f"multiplies {twice[0][0].site} with itself and with other sites")
        means = contract([*term.factors, *map(self.first, atoms)], dims, term.summed)
        for a, b in twice:
            second = self.covariance(a, b, None, where)
            if second is not None:
                means = means + contract([*term.factors, *second], dims, term.summed)
        return means

    def _split(self, atom: Atom) -> list[Atom]:
        """The square of a real number as a product of two."""
        if atom.kind == "power" and atom.power == 2 and self.is_real(atom.site):
            one = dataclasses.replace(atom, power=1)
            return [one, one]
        return [atom]

    @abc.abstractmethod
    def is_real(self, site: str) -> bool:
        """Whether a site can have any real value."""

    def _sum(self, parts: Sequence[Array], dims: Labels) -> Array:
        total = jnp.zeros((1,) * len(dims))
        for part in parts:
            total = total + part
        return total


def nodes(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of Gauss-Hermite quadrature for a standard normal variable."""
    x, weights = np.polynomial.hermite_e.hermegauss(points)
    return x, weights / weights.sum()


def safe_sqrt(square: Array) -> Array:
    """The square root of a non-negative number, with a finite slope at zero."""
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny ** 0.5))


def proved(value: Value) -> Known | Polynomial:
    """A value that is known to be a polynomial.

    Raises:
        NotConjugate: it is not.
    """
    if isinstance(value, Opaque):
        raise NotConjugate(f"depends on {value.reason}")
    return value


def _words(value: Polynomial) -> str:
    return _sites((value.terms or ()) + (value.log_terms or ()))


def _sites(terms: Terms) -> str:
    return ", ".join(sorted({atom.site for term in terms for atom in term.atoms}))
