"""Records what expectations a model needs of its latent sites."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Site
from vijax.model.conjugacy.axes import Live, positions, same_entry
from vijax.model.conjugacy.expectation import Expectation, NotConjugate
from vijax.model.conjugacy.values import Atom, Entry, Factor, Known, Polynomial, Term


class Pair(NamedTuple):
    """Two normal elements in one square.

    Attributes:
        sites: their sites.
        lags: by axis of the first and axis of the second, the largest distance of their indices,
            0 if they are the same, `None` if it is not known.
        last: by site, for each of its axes, the largest index, `None` if it is not known.
    """

    sites: tuple[str, str]
    lags: tuple[tuple[int | None, ...], ...]
    last: tuple[tuple[int | None, ...], ...]


class Weight(NamedTuple):
    """A normal element in a square with a weight.

    Attributes:
        site: the normal site.
        precision: the site and power of the weight, `None` if it has none or several.
        axes: by axis of the precision, the axis of the normal site with the same index.
        plain: whether the element has no other factors that depend on its dependent axes.
    """

    site: str
    precision: tuple[str, float] | None
    axes: tuple[int | None, ...] = ()
    plain: bool = True


Statistic = tuple[str, float]  # kind and power, see `Atom`
Place = tuple[str, str]  # a sample site and an argument of its distribution


class Recorder(Expectation):
    """Records what expectations a model needs; values are zeros.

    Args:
        sites: the latent sites by name.
        supports: their kinds of support.
        with_quadrature: whether the expectation of a site may be computed by quadrature.

    Attributes:
        bounds: what is augmented, in words that begin with the site, in order.
        by_quadrature: sites whose expectation is computed by quadrature.
        sums: whether the logarithm of a sum of products of several sites is needed.
        uses: by site, kind and power of an atom of it, and the first site and argument that use it.
    """

    def __init__(
        self, sites: Mapping[str, Site], supports: Mapping[str, str], with_quadrature: bool = False
    ) -> None:
        self.sites, self.supports, self.with_quadrature = sites, supports, with_quadrature
        self.bounds: dict[str, None] = {}
        self.by_quadrature: dict[str, None] = {}
        self.uses: dict[str, dict[Statistic, Place]] = {name: {} for name in sites}
        self.pairs: set[Pair] = set()
        self.weights: set[Weight] = set()
        self.products: set[frozenset[str]] = set()
        self.neighbors: set[frozenset[str]] = set()
        self.sums = False

    def is_real(self, site: str) -> bool:
        return self.supports[site] == "real"

    def joint(self, weight: Atom, atom: Atom) -> bool:
        return False

    def table(self, atom: Atom) -> Array:
        if self.is_real(atom.site) and (atom.kind != "power" or atom.power != 1):
            power = "log" if atom.kind == "log" else f"power {atom.power:g}"
            raise NotConjugate(
                f"depends on {atom.site} by its {power}, and {atom.site} is any real"
            )
        self._use(atom.site, (atom.kind, atom.power))
        shape = self.sites[atom.site].shape
        return jnp.zeros(shape[:-2] if atom.kind == "logdet" else shape)

    def covariance(
        self, one: Atom, two: Atom, weight: Atom | None, where: Live
    ) -> list[Factor] | None:
        normal = [self.is_real(atom.site) or atom.kind == "log" for atom in (one, two)]
        if one.site != two.site:
            if all(self.is_real(atom.site) for atom in (one, two)):
                self.pairs.add(_pair(one, two, where))
            return None
        if not all(normal):
            raise NotConjugate(
                f"depends on {one.site} squared, and {one.site} is not normally distributed"
            )
        if not self.is_real(one.site):
            self._use(one.site, ("log squared", 1))
        self.pairs.add(_pair(one, two, where))
        return [self.first(one), self.first(two)]

    def _use(self, name: str, statistic: Statistic) -> None:
        place = (name, "") if self.site == name else (self.site, self.argument)
        self.uses[name].setdefault(statistic, place)

    def quadrature(self) -> None:
        if not self.with_quadrature:
            raise NotConjugate("has an expectation that is known by quadrature alone")
        self.by_quadrature[self.site] = None

    def augmented(self, words: str) -> None:
        self.bounds[f"{self.site}: {words}"] = None

    def needed(self, value: Polynomial | Known) -> None:
        if isinstance(value, Polynomial):
            for atom in {atom for term in value.terms or () for atom in term.atoms}:
                self.table(atom)

    def summed(self, term: Term) -> None:
        self.sums |= len({atom.site for atom in term.atoms}) > 1

    def together(self, atoms: Sequence[Atom]) -> None:
        names = {atom.site for atom in atoms}
        self.neighbors.update(frozenset(pair) for pair in itertools.combinations(names, 2))

    def multiplied(self, atoms: Sequence[Atom]) -> None:
        for one, two in itertools.combinations(atoms, 2):
            self.products.add(frozenset((one.site, two.site)))

    def weighted(self, weight: Term, term: Term) -> None:
        for atom in term.atoms:
            if self.is_real(atom.site):
                self.weights.add(_weight(weight, term, atom))

    def alone(self, value: Polynomial) -> None:
        for term in value.terms or ():
            for atom in term.atoms:
                if self.is_real(atom.site):
                    self.weights.add(Weight(atom.site, None))


def _pair(one: Atom, two: Atom, where: Live) -> Pair:
    lags = tuple(tuple(_lag(a, b, where) for b in two.entries) for a in one.entries)
    last = tuple(tuple(_last(a, where) for a in atom.entries) for atom in (one, two))
    return Pair((one.site, two.site), lags, last)


def _lag(one: Entry, two: Entry, where: Live) -> int | None:
    if same_entry(one, two):
        return 0
    found = positions((one, two), where)
    return None if found is None else int(np.max(np.abs(np.subtract(*found[1]))))


def _last(entry: Entry, where: Live) -> int | None:
    found = positions((entry,), where)
    return None if found is None else int(np.max(found[1][0]))


def _weight(weight: Term, term: Term, atom: Atom) -> Weight:
    if len(weight.atoms) != 1 or len(term.atoms) != 1:
        return Weight(atom.site, None)
    (precision,) = weight.atoms
    axes = tuple(
        next((i for i, own in enumerate(atom.entries) if same_entry(own, entry)), None)
        for entry in precision.entries
    )
    last = atom.entries[-1] if atom.entries else None
    plain = not any(last in labels for _, labels in (*term.factors, *weight.factors))
    return Weight(atom.site, (precision.site, precision.power), axes, plain)
