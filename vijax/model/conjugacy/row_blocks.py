"""Blocks of rows of a plate, over which the terms of a model are summed.

A site with labels takes an array of rows x labels x columns before it is summed. In blocks that
stay in a processor's cache neither this array nor its gradient exists as a whole.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.distributions.discrete import ZeroInflatedProbs

from vijax.model.conjugacy.axes import Substitution, map_terms, with_argument
from vijax.model.conjugacy.reader import Reading, bases
from vijax.model.conjugacy.values import Axis, Index, Known, Labels, Opaque, Value
from vijax.model.discrete.enumeration import EnumerationPlan
from vijax.runtime.device_layout import default_platform, rows_are_spread

_WRAPPERS = dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution
_ELEMENTS = 2**16  # of a block, in a processor's cache
_ELEMENTS_OF_DEVICE = 2**24  # enough to keep an accelerator busy
_LEAST = 4  # blocks from which they pay
_SAMPLE = 10_000  # rows that show the components of a mixture
_LEAST_OF_CHAINS = 256  # rows of a block: a step of few chains takes as long as one of many
_MOST_OF_LOCAL = 16  # blocks, where the gradient of each has an element for every row of the plate


class Blocks(NamedTuple):
    """Blocks of rows of a plate.

    Attributes:
        plate: its name.
        size: its rows in use.
        length: rows of a block.
        local: whether the terms of rows depend on latent sites with a value for every row.
    """

    plate: str
    size: int
    length: int
    local: bool

    def sum(self, function: Callable[[Array], Array]) -> Array:
        """`function(rows)` summed over blocks; nothing of a block is kept for its gradient."""
        count, rest = divmod(self.size, self.length)

        def block(start: Array) -> Array:
            return function(start + jnp.arange(self.length))

        starts = self.length * jnp.arange(count)
        total = jnp.sum(lax.map(jax.checkpoint(block), starts))
        if rest:
            total = total + function(jnp.arange(self.size - rest, self.size))
        return total

    def estimate(self, function: Callable[[Array], Array]) -> Array:
        """The sum, estimated by the same random rows each time, where these are few of all."""
        count = -(-_SAMPLE // self.length)
        if self.local or _LEAST * count * self.length > self.size:
            return self.sum(function)
        rows = np.random.default_rng(0).choice(self.size, (count, self.length), replace=False)
        total = jnp.sum(lax.map(jax.checkpoint(function), jnp.asarray(np.sort(rows))))
        return self.size / rows.size * total


def blocks_of(plan: EnumerationPlan, readings: Mapping[str, Reading]) -> Blocks | None:
    """The blocks of rows in which discrete sites are eliminated.

    Args:
        plan: of the discrete sites.
        readings: of all sites at one state of the discrete ones.

    Returns:
        `None` where all rows are one block: they are few, or on several devices, or some of the
        sites that depend on discrete ones are in no plate that all of them share.
    """
    sizes: dict[str, int] = {}
    elements = 0
    mixtures = (isinstance(_unwrapped(readings[n].fn), dist.MixtureSameFamily) for n in plan.specs)
    if rows_are_spread() or any(mixtures):
        return None
    for name, spec in plan.specs.items():
        shape = _sizes(readings[name].value)
        states = (plan.variables[one].size for one in (*spec.current, *spec.previous))
        elements += math.prod(states) * math.prod(shape)
        batch = shape[: len(shape) - len(readings[name].fn.event_shape)]
        for dim, size in zip(reversed(spec.dims), reversed(batch), strict=False):
            if isinstance(dim, str):
                sizes[dim] = max(size, sizes.get(dim, 1))
    shared = [p for p in sizes if all(p in spec.dims for spec in plan.specs.values())]
    if not shared:
        return None
    plate = max(shared, key=lambda name: sizes[name])
    size = sizes[plate]
    largest = _ELEMENTS if default_platform() == "cpu" else _ELEMENTS_OF_DEVICE
    length = max(1, largest * size // max(elements, 1))
    places = {name: _place(spec.dims, plate) for name, spec in plan.specs.items()}
    local = any(_is_local(readings[name], place) for name, place in places.items())
    if local:
        length = max(length, math.ceil(size / _MOST_OF_LOCAL))
    if any(spec.previous for spec in plan.specs.values()):
        length = max(length, _LEAST_OF_CHAINS)
    if size < _LEAST * length:
        return None
    return Blocks(plate, size, _divisor(size, length), local)


def on_rows(
    plan: EnumerationPlan, plate: str, rows: Array, readings: Mapping[str, Reading]
) -> dict[str, Reading]:
    """The sites that depend on discrete ones, on some rows of a plate; `rows` are their numbers."""
    return {
        name: _on_rows(readings[name], _place(spec.dims, plate), rows)
        for name, spec in plan.specs.items()
    }


def _divisor(size: int, length: int) -> int:
    """A divisor of `size` near `length`, `length` itself if there is none."""
    found = (n for n in range(length, length // 4, -1) if size % n == 0)
    return next(found, length)


def _place(dims: tuple[Any, ...], plate: str) -> int:
    """The position of a plate in a batch shape, from the right."""
    return len(dims) - dims.index(plate)


def _sizes(value: Value) -> tuple[int, ...]:
    return tuple(axis.size for axis in value.dims)


def _on_rows(reading: Reading, place: int, rows: Array) -> Reading:
    """A site on some rows of the plate at a place of its batch shape, from the right."""
    part = _Part(rows)
    inner, places = _places(reading.fn, place)
    arguments = tuple(
        {name: part.value(value, at, _event_dim(fn, name)) for name, value in one.items()}
        for fn, one, at in zip(bases(reading.fn), reading.arguments, places, strict=True)
    )
    fn = _unwrapped(reading.fn)
    return reading._replace(
        fn=_distribution(reading.fn, place, rows.size),
        arguments=arguments,
        value=part.value(reading.value, inner, len(fn.event_shape)),
        mask=part.optional(reading.mask, place),
        inner_mask=part.optional(reading.inner_mask, inner),
        scale=part.optional(reading.scale, place),
        rows=place,
    )


class _Part:
    """Takes the same rows of values; equal indices are then one array, which can be compared."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self.substitution = Substitution()
        self.values: dict[tuple[int, int], tuple[Value, Value]] = {}
        self.axes: dict[Axis, Axis] = {}

    def value(self, value: Value, place: int, event: int = 0) -> Value:
        """These rows of a value, as the last axis of its batch.

        Args:
            value: the value.
            place: the axis of rows in the batch, from the right.
            event: number of axes after the batch.
        """
        lookup = id(value), place
        if lookup not in self.values:  # one value that is two arguments remains one
            self.values[lookup] = self._value(value, place, event), value
        return self.values[lookup][0]

    def optional(self, value: Value | None, place: int) -> Value | None:
        """Likewise of a value that may be missing."""
        return None if value is None else self.value(value, place)

    def _value(self, value: Value, place: int, event: int) -> Value:
        end = len(value.dims) - event
        if end < place:
            return _with_dims(value, (*value.dims[:end], Axis(1), *value.dims[end:]))
        axis = value.dims[end - place]
        rest = *value.dims[: end - place], *value.dims[end - place + 1 : end]
        new = self.axes.setdefault(axis, Axis(self.rows.size)) if axis.size > 1 else axis
        dims = (*rest, new, *value.dims[end:])
        if axis.size == 1:
            return _with_dims(value, dims)
        index = Index(self.rows, (new,)) if self.rows.size > 1 else Index(self.rows[0], ())
        if isinstance(value, Known):
            return self.substitution.known(value, axis, index, dims)
        if isinstance(value, Opaque):
            return with_argument(value, dims, lambda one: self.value(one, place, event))
        return map_terms(value, lambda term: self.substitution.term(term, axis, index), dims)


def _with_dims(value: Value, dims: Labels) -> Value:
    """A value with axes of length 1 added, or all in another order."""
    if isinstance(value, Opaque):
        return with_argument(value, dims, lambda argument: _with_dims(argument, dims))
    return dataclasses.replace(value, dims=dims)


def _unwrapped(fn: dist.Distribution) -> dist.Distribution:
    return _unwrapped(fn.base_dist) if isinstance(fn, _WRAPPERS) else fn


def _event_dim(fn: dist.Distribution, name: str) -> int:
    constraint = fn.arg_constraints.get(name)
    return 0 if constraint is None else constraint.event_dim


def _places(fn: dist.Distribution, place: int) -> tuple[int, list[int]]:
    """Where the rows are in the batch shapes of what a distribution is made of, from the right.

    Returns:
        In that of the distribution inside of all wrappers, and in those of its `bases`.
    """
    while isinstance(fn, _WRAPPERS):
        place += fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0
        fn = fn.base_dist
    if isinstance(fn, ZeroInflatedProbs):
        return place, [place, *_places(fn.base_dist, place)[1]]
    return place, [place]


def _distribution(fn: dist.Distribution, place: int, length: int) -> dist.Distribution:
    """A distribution with the shapes that it has on `length` rows; its arguments are abstract."""
    found = copy.copy(fn)
    shape = list(fn.batch_shape)
    size = shape.pop(-place) if len(shape) >= place else 1
    found._batch_shape = (*shape, 1 if size == 1 else length)
    if isinstance(fn, (*_WRAPPERS, ZeroInflatedProbs)):
        inside = place + (fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0)
        found.base_dist = _distribution(fn.base_dist, inside, length)
    return found


def _is_local(reading: Reading, place: int) -> bool:
    """Whether a site depends on latent sites that have a value for every row."""
    _, places = _places(reading.fn, place)
    values = [(reading.value, place + len(reading.fn.event_shape))]
    for fn, one, at in zip(bases(reading.fn), reading.arguments, places, strict=True):
        values += [(value, at + _event_dim(fn, name)) for name, value in one.items()]
    return any(_varies(value, at) for value, at in values)


def _varies(value: Value, place: int) -> bool:
    """Whether latent sites in a value are indexed by one of its axes, counted from the right."""
    argument = value.argument if isinstance(value, Opaque) else value
    if argument is None or isinstance(argument, Known) or len(argument.dims) < place:
        return False
    axis = argument.dims[-place]
    terms = (argument.terms or ()) + (argument.log_terms or ())
    return any(entry is axis for term in terms for atom in term.atoms for entry in atom.entries)
