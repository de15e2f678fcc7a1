"""Expectations under the blocks of a conjugate guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts.conjugate import BlockSite, ConjugateBlock, ConjugatePlan
from vijax.model.conjugacy.axes import Live, align, positions, same_entry, simplified
from vijax.model.conjugacy.contraction import view
from vijax.model.conjugacy.expectation import Expectation
from vijax.model.conjugacy.values import Atom, Axis, Entry, Factor, Index, Labels, Polynomial

Expectations = Mapping[str, Mapping[str, Array]]  # by block and name, see vijax.families


class Moments(Expectation):
    """Expectations of atoms from those of the blocks' families.

    Args:
        plan: the blocks.
        expectations: of each block, by its name.
    """

    def __init__(self, plan: ConjugatePlan, expectations: Expectations) -> None:
        self.expectations = expectations
        self.blocks = {site.name: block for block in plan.blocks for site in block.sites}
        self.places = {site.name: site for block in plan.blocks for site in block.sites}

    def is_real(self, site: str) -> bool:
        block = self.blocks[site]
        return block.kind != "log_normal" and self.places[site] in block.gaussian_sites

    def table(self, atom: Atom) -> Array:
        block, site = self.blocks[atom.site], self.places[atom.site]
        values = self.expectations[block.name]
        if site in block.gaussian_sites:
            return block.part(site, values["mean"])
        if atom.kind == "power":
            return site.placed(values["value"])
        if atom.kind == "logdet":
            return values["logdet"] / block.power
        power = block.power if block.kind in ("gamma", "normal_gamma") else 1
        return site.placed(values[atom.kind] / power)

    def joint(self, weight: Atom, atom: Atom) -> bool:
        block = self.blocks[weight.site]
        return len(block.sites) > 1 and block is self.blocks[atom.site] and weight.site != atom.site

    def covariance(
        self, one: Atom, two: Atom, weight: Atom | None, where: Live
    ) -> list[Factor] | None:
        block = self.blocks[one.site]
        sites = self.places[one.site], self.places[two.site]
        if block is not self.blocks[two.site] or any(s not in block.gaussian_sites for s in sites):
            return None
        values = self.expectations[block.name]
        if block.kind == "normal_wishart":
            return self._wishart_covariance(one, two, values)
        indicators = _equalities(one, two, sites)
        if block.kind == "normal_chain":
            found = _of_chain(block, sites, (one, two), values, where)
            return None if found is None else [found, *indicators]
        if block.event_size == 1:
            variance = values["variance"] if "variance" in values else values["covariance"][..., 0]
            return [view(block.part(sites[0], variance), one.entries), *indicators]
        array = _cross(block, sites, values["covariance"])
        rest = tuple(two.entries[i] for i in sites[1].event_axes)
        return [_cross_view(array, sites[0], one, rest), *indicators]

    def _wishart_covariance(
        self, one: Atom, two: Atom, values: Mapping[str, Array]
    ) -> list[Factor]:
        """`E[L_ij (m_i - E m_i)(m_j - E m_j)] = variance`, summed over `i` and `j` it is `d`."""
        site = self.places[one.site]
        batch = tuple(one.entries[i] for i in site.batch_axes)
        row, column = one.entries[-1], two.entries[-1]
        factors = [view(values["variance"], batch), *_equalities(one, two, (site, site))]
        if isinstance(row, Axis) and isinstance(column, Axis) and row is not column:
            factors.append((jnp.eye(row.size), (row, column)))
        return factors


class PointMass(Expectation):
    """Expectations under a point mass: the values themselves.

    Args:
        values: by site.
        supports: kinds of support, by site.
    """

    def __init__(self, values: Mapping[str, Array], supports: Mapping[str, str]) -> None:
        self.values, self.supports = values, supports

    def is_real(self, site: str) -> bool:
        return self.supports[site] == "real"

    def table(self, atom: Atom) -> Array:
        x = self.values[atom.site]
        if self.supports[atom.site] == "matrix":
            if atom.kind == "logdet":
                return jnp.linalg.slogdet(x)[1]
            return jnp.linalg.inv(x) if atom.power == -1 else x
        if atom.kind == "power":
            return x if atom.power == 1 else x**atom.power
        return jnp.log1p(-x) if atom.kind == "log1m" else jnp.log(x)

    def joint(self, weight: Atom, atom: Atom) -> bool:
        return False

    def normal(self, value: Polynomial, function: Callable[[Array], Array], points: int) -> Array:
        return function(self.mean(value))

    def covariance(
        self, one: Atom, two: Atom, weight: Atom | None, where: Live
    ) -> list[Factor] | None:
        return None


def _cross(block: ConjugateBlock, sites: tuple[BlockSite, BlockSite], covariance: Array) -> Array:
    """The covariances of two sites, `(*batch, *event of one, *event of two)`."""
    part = covariance[..., block.place(sites[0]), block.place(sites[1])]
    return part.reshape((*part.shape[:-2], *sites[0].event_shape, *sites[1].event_shape))


def _cross_view(array: Array, site: BlockSite, atom: Atom, rest: tuple) -> Factor:
    batch = tuple(atom.entries[i] for i in site.batch_axes)
    event = tuple(atom.entries[i] for i in site.event_axes)
    return view(array, (*batch, *event, *rest))


def _of_chain(
    block: ConjugateBlock,
    sites: tuple[BlockSite, BlockSite],
    atoms: tuple[Atom, Atom],
    values: Mapping[str, Array],
    where: Live,
) -> Factor | None:
    """The covariance of elements of the same step of a chain and of neighboring ones."""
    entries = [
        Index(np.zeros((), int), ()) if s.step_axis is None else atom.entries[s.step_axis]
        for s, atom in zip(sites, atoms, strict=True)
    ]
    start = [block.first_step * (site.step_axis is not None) for site in sites]
    if start[0] == start[1] and same_entry(*entries):
        covariance = values["covariance"][..., start[0] :, :, :]
        return _blocks(block, sites, atoms, covariance, entries[0])
    found = positions(entries, {})
    assert found is not None  # the blocks are planned by distances that are known
    labels, numbers = found
    steps = [number + first for number, first in zip(numbers, start, strict=True)]
    counts = np.ones(len(steps[0]), bool) & where.get(labels[0] if labels else Axis(1), True)
    parts = []
    for lag in (-1, 0, 1):
        here = (steps[0] - steps[1] == lag) & counts
        if here.any():
            part = _at_lag(block, sites, atoms, values, lag, (labels, np.minimum(*steps)))
            parts.append((part, here))
    if not parts:
        return None
    ((array, names), first), *others = parts
    if not others:
        return array, names
    total = array * align(first.astype(float), labels, names)
    for (array, own), here in others:
        total = total + align(array, own, names) * align(here.astype(float), labels, names)
    return total, names


def _at_lag(
    block: ConjugateBlock,
    sites: tuple[BlockSite, BlockSite],
    atoms: tuple[Atom, Atom],
    values: Mapping[str, Array],
    lag: int,
    earlier: tuple[Labels, np.ndarray],
) -> Factor:
    """The covariances of the steps `earlier + max(lag, 0)` and `earlier + max(-lag, 0)`."""
    labels, numbers = earlier
    array = values["cross" if lag else "covariance"]
    numbers = np.clip(numbers, 0, array.shape[-3] - 1)
    entry = simplified(Index(numbers if labels else numbers[0], labels), array.shape[-3])
    return _blocks(block, sites, atoms, array.mT if lag < 0 else array, entry)


def _blocks(
    block: ConjugateBlock,
    sites: tuple[BlockSite, BlockSite],
    atoms: tuple[Atom, Atom],
    array: Array,
    step: Entry,
) -> Factor:
    """The elements of two atoms in an array of blocks, `(*batch, steps, k, k)`, at some steps."""
    part = array[..., block.place(sites[0]), block.place(sites[1])]
    part = part.reshape((*part.shape[:-2], *sites[0].event_shape, *sites[1].event_shape))
    batch = [atoms[0].entries[i] for i in sites[0].batch_axes]
    events = [a.entries[i] for s, a in zip(sites, atoms, strict=True) for i in s.event_axes]
    return view(part, (*batch, step, *events))


def _equalities(one: Atom, two: Atom, sites: tuple[BlockSite, BlockSite]) -> list[Factor]:
    """Indicators that two elements are in the same member of the batch."""
    found: list[Factor] = []
    for i, j in zip(sites[0].batch_axes, sites[1].batch_axes, strict=True):
        a, b = one.entries[i], two.entries[j]
        if same_entry(a, b):
            continue
        pairs = [
            (jnp.arange(e.size), (e,)) if isinstance(e, Axis) else (e.array, e.labels)
            for e in (a, b)
        ]
        labels = tuple(dict.fromkeys(axis for _, own in pairs for axis in own))
        left, right = (align(array, own, labels) for array, own in pairs)
        found.append(((left == right).astype(float), labels))
    return found
