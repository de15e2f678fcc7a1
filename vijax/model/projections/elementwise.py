"""Terms that are elementwise functions of affine values, evaluated by element.

Arrays have named axes. A value is asked for with the names of its axes, which are those of the term
that is asked for first; an operation passes them on to its operands. An affine value that many
elements of a term share, such as a mean of all rows, so has its own value for each of them, as
quadrature over it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from vijax.model.conjugacy.axes import align
from vijax.model.conjugacy.interpreter import ELEMENTWISE
from vijax.model.conjugacy.values import Axis
from vijax.model.projections.graph import Node

Names = tuple[Axis | None, ...]  # of the axes of a value, `None` for length 1

_ELEMENTWISE = ELEMENTWISE | frozenset(
    ["igamma", "igammac", "polygamma", "regularized_incomplete_beta", "bessel_i0e", "bessel_i1e"]
)
_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_sum": jnp.sum,
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_prod": jnp.prod,
    "reduce_and": jnp.all,
    "reduce_or": jnp.any,
}


class Named(NamedTuple):
    """An array with named axes; it has none along which it is constant."""

    array: Any
    names: tuple[Axis, ...]


class Unsupported(Exception):
    """An operation that mixes elements of a value that is not affine: `operation`."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.operation)
        self.operation, self.latents = node.operation, node.latents


Leaf = Callable[[Node, Names], Named]  # the value of an affine node


class Axes:
    """New axes of operands by place, the same in each evaluation."""

    def __init__(self) -> None:
        self._known: dict[tuple[Node, int], Axis] = {}

    def of(self, node: Node, dim: int) -> Axis | None:
        """The axis of a value along which it is reduced."""
        size = node.shape[dim]
        return None if size == 1 else self._known.setdefault((node, dim), Axis(size))


def evaluate(node: Node, names: Names, axes: Axes, leaf: Leaf) -> Named:
    """The value of a node.

    Args:
        node: the value.
        names: of its axes.
        axes: those over which values are reduced.
        leaf: values of affine nodes.

    Raises:
        Unsupported: an operation on values that are not affine mixes their elements.
    """
    return _Evaluation(axes, leaf).value(node, names)


class _Evaluation:
    def __init__(self, axes: Axes, leaf: Leaf) -> None:
        self.axes, self.leaf = axes, leaf
        self._memo: dict[tuple[Node, Names], Named] = {}

    def value(self, node: Node, names: Names) -> Named:
        if (node, names) not in self._memo:
            self._memo[node, names] = self._value(node, names)
        return self._memo[node, names]

    def _value(self, node: Node, names: Names) -> Named:
        if node.kind == "known":
            return without_constant(node.array, names)
        if node.kind == "affine":
            return self.leaf(node, names)
        name = node.operation
        if name in _ELEMENTWISE:
            return self._elementwise(node, names)
        if name in _REDUCTIONS:
            return self._reduction(node, names)
        if name in _MOVES:
            (operand, *_) = node.operands
            moved = _MOVES[name](node, operand, names)
            if moved is not None:
                return self.value(operand, moved)
        if name in ("concatenate", "stack"):
            return self._joined(node, names)
        if name == "slice":
            return self._slice(node, names)
        raise Unsupported(node)

    def _elementwise(self, node: Node, names: Names) -> Named:
        values = [self.value(operand, _own(operand, names)) for operand in node.operands]
        together = tuple(dict.fromkeys(axis for one in values for axis in one.names))
        shape = tuple(axis.size for axis in together)
        arrays = [
            jnp.broadcast_to(align(one.array, one.names, together), shape).astype(operand.dtype)
            for one, operand in zip(values, node.operands, strict=True)
        ]
        return Named(node.equation.primitive.bind(*arrays, **node.equation.params), together)

    def _reduction(self, node: Node, names: Names) -> Named:
        (operand,) = node.operands
        dims = node.equation.params["axes"]
        rest = iter(names)
        inner = tuple(
            self.axes.of(operand, i) if i in dims else next(rest) for i in range(len(operand.shape))
        )
        found = self.value(operand, inner)
        reduced = {inner[i] for i in dims}
        places = tuple(i for i, axis in enumerate(found.names) if axis in reduced)
        array = _REDUCTIONS[node.operation](found.array, axis=places) if places else found.array
        constant = [a for a in reduced if a is not None and a not in found.names]
        times = math.prod(axis.size for axis in constant)
        if node.operation == "reduce_sum":
            array = times * array
        elif node.operation == "reduce_prod":
            array = array**times
        return Named(array, tuple(axis for axis in found.names if axis not in reduced))

    def _joined(self, node: Node, names: Names) -> Named:
        """Values side by side along an axis, which those that are stacked do not have."""
        stacked = node.operation == "stack"
        dim = node.equation.params["axis" if stacked else "dimension"]
        parts = []
        for operand in node.operands:
            own = Axis(1 if stacked else operand.shape[dim])
            inside = () if stacked else (own if own.size > 1 else None,)
            parts.append((own, self.value(operand, (*names[:dim], *inside, *names[dim + 1 :]))))
        others = dict.fromkeys(a for own, one in parts for a in one.names if a is not own)
        shape = tuple(axis.size for axis in others)
        arrays = [
            jnp.broadcast_to(align(one.array, one.names, (*others, own)), (*shape, own.size))
            for own, one in parts
        ]
        joined = jnp.concatenate(arrays, axis=-1)
        axis = names[dim]
        return Named(joined[..., 0], (*others,)) if axis is None else Named(joined, (*others, axis))

    def _slice(self, node: Node, names: Names) -> Named:
        (operand,) = node.operands
        params = node.equation.params
        strides = params["strides"] or (1,) * len(operand.shape)
        whole = [size == own for size, own in zip(operand.shape, node.shape, strict=True)]
        inner = tuple(
            names[i] if whole[i] else self.axes.of(operand, i) for i in range(len(operand.shape))
        )
        array, found = self.value(operand, inner)
        for i, (axis, kept) in enumerate(zip(inner, whole, strict=True)):
            if kept or axis not in found:
                continue
            place, outer = found.index(axis), names[i]
            part = slice(params["start_indices"][i], params["limit_indices"][i], strides[i])
            array = array[(slice(None),) * place + (part,)]
            if outer is None:
                array = jnp.squeeze(array, place)
            found = (*found[:place], *(() if outer is None else (outer,)), *found[place + 1 :])
        return Named(array, found)


def without_constant(array: Any, names: Sequence[Axis | None]) -> Named:
    """An array without its axes of length 1."""
    kept = tuple(axis for axis in names if axis is not None)
    return Named(jnp.reshape(array, [axis.size for axis in kept]), kept)


def _own(operand: Node, names: Names) -> Names:
    """The axes of an operand of an elementwise operation: a number, or of the same rank."""
    pairs = zip(operand.shape, names, strict=True) if operand.shape else ()
    return tuple(None if size == 1 else axis for size, axis in pairs)


def _broadcast(node: Node, operand: Node, names: Names) -> Names:
    dims = node.equation.params["broadcast_dimensions"]
    pairs = zip(operand.shape, dims, strict=True)
    return tuple(None if size == 1 else names[dim] for size, dim in pairs)


def _reshape(node: Node, operand: Node, names: Names) -> Names | None:
    if [s for s in operand.shape if s != 1] != [s for s in node.shape if s != 1]:
        return None
    kept = iter([axis for axis, size in zip(names, node.shape, strict=True) if size != 1])
    return tuple(None if size == 1 else next(kept) for size in operand.shape)


def _transpose(node: Node, operand: Node, names: Names) -> Names:
    order = node.equation.params["permutation"]
    return tuple(names[order.index(i)] for i in range(len(order)))


_MOVES: dict[str, Callable[[Node, Node, Names], Names | None]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
}
