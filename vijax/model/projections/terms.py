"""The terms of a log density, each element a function of one linear combination of the inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.conjugacy.axes import align
from vijax.model.conjugacy.values import Axis
from vijax.model.projections.elementwise import (
    Axes,
    Leaf,
    Named,
    Names,
    evaluate,
    without_constant,
)
from vijax.model.projections.graph import Node, affine_values

_TINY = 1e-300


@dataclasses.dataclass(eq=False)
class Term:
    """Elements `l_n(a_n e)` of a log density.

    Attributes:
        name: of the site.
        node: their value.
        axes: names of its axes.
        weight: that the value is multiplied by, broadcasts with it.
        inner: names of axes over which operations reduce.
        leaves: by affine value and its axes, its factors `s` and offsets `b`: it is `s u + b` where
            `u` are the linear combinations. Empty until they are known.
    """

    name: str
    node: Node
    axes: Names
    weight: Array
    inner: Axes
    leaves: dict[tuple[Node, Names], tuple[Named, Named]]

    @property
    def outer(self) -> tuple[Axis, ...]:
        """The axes of length over 1."""
        return tuple(axis for axis in self.axes if axis is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the elements."""
        return tuple(axis.size for axis in self.outer)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def value(self, leaf: Leaf) -> Array:
        """The elements, `shape`, given the affine values."""
        found = evaluate(self.node, self.axes, self.inner, leaf)
        aligned = align(jnp.asarray(found.array), found.names, self.outer)
        return jnp.broadcast_to(aligned, self.shape)

    def log_likelihood(self, u: Array) -> Array:
        """The elements `(size,)` where their linear combinations are `u` `(size,)`."""
        projected = jnp.reshape(u, self.shape)

        def leaf(node: Node, names: Names) -> Named:
            scale, offset = self.leaves[node, names]
            every = tuple(dict.fromkeys((*self.outer, *scale.names, *offset.names)))
            arrays = (
                align(array, own, every) for array, own in ((projected, self.outer), scale, offset)
            )
            value, times, plus = arrays
            shape = tuple(axis.size for axis in every)
            full = jnp.broadcast_to(value * times + plus, shape)
            return Named(full.astype(node.dtype), every)

        value = jnp.ravel(self.value(leaf)).astype(u.dtype)
        weight = jnp.ravel(jnp.broadcast_to(self.weight, self.node.shape)).astype(u.dtype)
        return jnp.where(weight == 0, 0.0, weight * value)  # a masked one may be infinite


def terms_of(name: str, node: Node) -> tuple[list[Term], Array]:
    """The terms of the sum of the elements of a value, and the sum of what depends on no input.

    A sum over elements inside of it, as of a distribution with events or of a factor that is a sum,
    is one of several terms; a sum of functions of the same elements is not.

    Raises:
        Unsupported: an element depends on others.
    """
    terms: list[Term] = []
    constants = [jnp.zeros(())]
    left: list[tuple[Node, Any]] = [(node, jnp.ones((1,) * len(node.shape)))]
    while left:
        one, weight = left.pop()
        if one.kind == "known":
            constants.append(jnp.sum(jnp.broadcast_to(weight, one.shape) * one.array))
        elif _has_sum(one):
            left += _ADDITIVE[one.operation](one, weight)
        else:
            terms.append(_term(name, one, weight))
    return terms[::-1], sum(constants[1:], constants[0])


def _term(name: str, node: Node, weight: Array) -> Term:
    axes = tuple(None if size == 1 else Axis(size) for size in node.shape)
    term = Term(name, node, axes, weight, Axes(), {})
    places: dict[tuple[Node, Names], None] = {}

    def leaf(affine: Node, names: Names) -> Named:
        places[affine, names] = None
        zeros = jnp.zeros([axis.size for axis in names if axis is not None], affine.dtype)
        return without_constant(zeros, names)

    jax.eval_shape(lambda: term.value(leaf))
    empty = Named(jnp.zeros(()), ())
    term.leaves.update(dict.fromkeys(places, (empty, empty)))
    return term


Parts = list[tuple[Node, Any]]  # values and the weights that they are multiplied by


def _has_sum(node: Node) -> bool:
    """Whether a value is a linear combination of values of which one is a sum over elements."""
    if node.operation == "reduce_sum":
        (operand,) = node.operands
        return math.prod(operand.shape) > math.prod(node.shape) or _has_sum(operand)
    if node.operation not in _ADDITIVE or not _is_weighted(node):
        return False
    return any(_has_sum(operand) for operand in node.operands)


def _is_weighted(node: Node) -> bool:
    """Whether an operation is linear in all of its operands that are not known."""
    known = [operand.kind == "known" for operand in node.operands]
    if node.operation == "mul":
        return any(known)
    if node.operation == "div":
        return known[1]
    return known[0] if node.operation == "select_n" else True


def _summed(node: Node, weight: Any) -> Parts:
    return [(node.operands[0], jnp.expand_dims(weight, node.equation.params["axes"]))]


def _moved(node: Node, weight: Any) -> Parts:
    (operand, *_) = node.operands
    full = jnp.broadcast_to(weight, node.shape)
    if node.operation == "transpose":
        order = node.equation.params["permutation"]
        return [(operand, jnp.transpose(full, [order.index(i) for i in range(len(order))]))]
    return [(operand, jnp.reshape(full, operand.shape))]


def _added(node: Node, weight: Any) -> Parts:
    first = -weight if node.operation == "neg" else weight
    second = -weight if node.operation == "sub" else weight
    return [_like(node.operands[0], first), *(_like(one, second) for one in node.operands[1:])]


def _multiplied(node: Node, weight: Any) -> Parts:
    one, two = node.operands
    if node.operation == "div":
        return [_like(one, weight / two.array)]
    known, other = (one, two) if one.kind == "known" else (two, one)
    return [_like(other, weight * known.array)]


def _selected(node: Node, weight: Any) -> Parts:
    which, *cases = node.operands
    return [_like(case, jnp.where(which.array == i, weight, 0.0)) for i, case in enumerate(cases)]


def _like(operand: Node, weight: Any) -> tuple[Node, Any]:
    """A weight for an operand, which may be constant along axes of the result."""
    for axis, size in enumerate(operand.shape):
        if size == 1 < weight.shape[axis]:
            weight = jnp.sum(weight, axis=axis, keepdims=True)
    return operand, weight if operand.shape else jnp.sum(weight)


_ADDITIVE: dict[str, Callable[[Node, Any], Parts]] = {
    "reduce_sum": _summed,
    "reshape": _moved,
    "squeeze": _moved,
    "expand_dims": _moved,
    "transpose": _moved,
    "convert_element_type": lambda node, weight: [(node.operands[0], weight)],
    "add": _added,
    "add_any": _added,
    "sub": _added,
    "neg": _added,
    "mul": _multiplied,
    "div": _multiplied,
    "select_n": _selected,
}


def project(
    terms: list[Term], inputs: Mapping[str, Node], unravel: Callable[[Array], Any], dim: int
) -> tuple[list[Array], list[Array]]:
    """Fills in the affine values of terms.

    Args:
        terms: the terms.
        inputs: of the program.
        unravel: from a vector `(dim,)` to the inputs by name.
        dim: number of their elements.

    Returns:
        By term, the linear combinations `(size, dim)` that its elements depend on, and the largest
        relative distance of an affine value from being proportional to one.
    """
    nodes = list(dict.fromkeys(node for term in terms for node, _ in term.leaves))

    def values(point: Array) -> list[Array]:
        return affine_values(nodes, inputs, unravel(point))

    origin = jnp.zeros(dim)
    offsets, along = jax.linearize(values, origin)
    slopes = jax.vmap(along, out_axes=-1)(jnp.eye(dim))
    by_node = dict(zip(nodes, zip(slopes, offsets, strict=True), strict=True))
    found = [_projected(term, by_node, dim) for term in terms]
    return [rows for rows, _ in found], [misfit for _, misfit in found]


def _projected(
    term: Term, by_node: Mapping[Node, tuple[Array, Array]], dim: int
) -> tuple[Array, Array]:
    """The linear combinations of a term, see `project`."""
    last, outer = Axis(dim), term.outer
    stacked, places = [], []
    for node, names in term.leaves:
        own = tuple(axis for axis in names if axis is not None)
        inner = tuple(axis for axis in own if axis not in outer)
        slopes = jnp.reshape(by_node[node][0], (*(axis.size for axis in own), dim))
        aligned = align(slopes, (*own, last), (*outer, *inner, last))
        full = (*term.shape, *(axis.size for axis in inner), dim)
        stacked.append(jnp.reshape(jnp.broadcast_to(aligned, full), (term.size, -1, dim)))
        places.append(inner)
    every = stacked[0] if len(stacked) == 1 else jnp.concatenate(stacked, axis=1)
    longest = jnp.argmax(jnp.sum(every**2, axis=-1), axis=1)
    rows = jnp.take_along_axis(every, longest[:, None, None], axis=1)[:, 0]
    square = jnp.sum(rows**2, axis=-1)
    misfit = jnp.zeros(())
    for (node, names), slopes, inner in zip(term.leaves, stacked, places, strict=True):
        scales = jnp.einsum("nid,nd->ni", slopes, rows) / jnp.maximum(square, _TINY)[:, None]
        rest = slopes - scales[..., None] * rows[:, None]
        sizes = jnp.maximum(jnp.sqrt(square), _TINY)[:, None]
        misfit = jnp.maximum(misfit, jnp.max(jnp.linalg.norm(rest, axis=-1) / sizes, initial=0.0))
        shape = (*term.shape, *(axis.size for axis in inner))
        scale = Named(jnp.reshape(scales, shape), (*outer, *inner))
        term.leaves[node, names] = scale, without_constant(by_node[node][1], names)
    return rows, misfit
