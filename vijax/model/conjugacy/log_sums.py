"""Logarithms of sums of products over axes, without an array of all products.

`log sum_k prod_i exp(l_i)` over named axes is one contraction of the arrays `exp(l_i - m_i)`, with
`m_i` the largest element of `l_i` along the axes that are summed: a product of matrices, where the
array of all products would have an axis more than the result. Where all products of a sum are too
small for a floating-point number, that array is formed after all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp

from vijax.model.conjugacy.axes import align, labels_of
from vijax.model.conjugacy.contraction import contract, view
from vijax.model.conjugacy.values import Axis, Entry, Factor, Labels


class LogFactor(NamedTuple):
    """The logarithm of a factor of a product: elements of an array.

    Attributes:
        table: the array.
        entries: the index along each of its axes.
    """

    table: Array
    entries: tuple[Entry, ...]


def log_of_sum(
    factors: Sequence[LogFactor],
    dims: Labels,
    summed: frozenset[Axis],
    needed: Array | None = None,
) -> Array:
    """`log sum exp(sum of factors)` over some axes, with dimensions `dims`.

    Args:
        factors: logarithms of the factors.
        dims: axes of the result, of length 1 where it is constant.
        summed: axes that are summed over.
        needed: which elements matter, broadcast against the result; by default all.
    """
    parts = [_split(factor, summed) for factor in factors]
    scale = _total([found for _, found in parts], dims)
    moving = [part for part, _ in parts if part is not None]
    tables = [part.table for part in moving]  # exponentials before elements are taken: fewer

    def elements(tables: Sequence[Array]) -> list[Factor]:
        return [view(x, part.entries) for x, part in zip(tables, moving, strict=True)]

    sums = contract(elements([jnp.exp(table) for table in tables]), dims, summed)
    representable = sums > jnp.finfo(sums.dtype).tiny ** 0.9
    enough = representable if needed is None else representable | ~needed

    def fast() -> Array:
        return jnp.log(jnp.where(representable, sums, 1.0))

    @jax.checkpoint
    def slow(tables: Sequence[Array]) -> Array:
        inside = (*dims, *summed)
        shape = (*jnp.shape(sums), *(axis.size for axis in summed))
        logs = jnp.broadcast_to(_total(elements(tables), inside), shape)
        return logsumexp(logs, axis=tuple(range(len(dims), len(inside))))

    return scale + lax.cond(jnp.all(enough), fast, lambda: slow(tables))


def _split(factor: LogFactor, summed: frozenset[Axis]) -> tuple[LogFactor | None, Factor]:
    """A factor less its largest element along the summed axes, and that element.

    The first is `None` for a factor that is constant along these axes.
    """
    table, entries = factor
    along = [i for i, entry in enumerate(entries) if not summed.isdisjoint(labels_of(entry))]
    if not along:
        return None, view(table, entries)
    highest = lax.stop_gradient(jnp.max(table, axis=tuple(along), keepdims=True))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    rest = tuple(entry for i, entry in enumerate(entries) if i not in along)
    scale = view(jnp.squeeze(highest, tuple(along)), rest)
    return LogFactor(table - highest, entries), scale


def _total(factors: Sequence[Factor], dims: Labels) -> Array:
    """The sum of arrays with named axes, with dimensions `dims`."""
    parts = [align(array, labels, dims) for array, labels in factors]
    return functools.reduce(jnp.add, parts, jnp.zeros((1,) * len(dims)))
