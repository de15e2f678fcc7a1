"""Values of parts of a traced program, computed on the host by NumPy from its inputs.

Only the operations that indices and labels go through: comparisons, shifts, changes of shape. Such
a part is a graph of `Node`s that is made once, when the program is traced, and evaluated for every
set of inputs in the time of a few passes over them. Nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

INPUT, CONSTANT, SCATTERED = "input", "constant", "scattered"


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A value that depends on inputs and constants alone.

    Attributes:
        rule: the operation: `INPUT`, `CONSTANT`, `SCATTERED` or the name of a primitive.
        operands: what it is computed from.
        params: of the primitive; the name of an input, the value of a constant.
        shape: of the value.
        dtype: of the value.
    """

    rule: str
    operands: tuple[Node, ...]
    params: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: Any

    @functools.cached_property
    def is_constant(self) -> bool:
        """Whether it depends on no input."""
        return self.rule != INPUT and all(one.is_constant for one in self.operands)

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """The inputs whose entries are its entries, perhaps shifted; not those that select them."""
        if self.rule == INPUT:
            return (self.params["name"],)
        names = [name for one in self._sources for name in one.inputs]
        return tuple(dict.fromkeys(names))

    def constants(self) -> list[np.ndarray]:
        """The constants that it is computed from."""
        if self.rule == CONSTANT:
            return [np.asarray(self.params["value"])]
        return [array for one in self.operands for array in one.constants()]

    @property
    def _sources(self) -> tuple[Node, ...]:
        if self.rule == "select_n":
            return self.operands[1:]
        return self.operands[:1] if self.rule == "gather" else self.operands


def input_node(name: str, aval: Any) -> Node:
    """An input of the program."""
    return Node(INPUT, (), {"name": name}, tuple(aval.shape), aval.dtype)


def constant_node(value: Any, aval: Any) -> Node | None:
    """A constant of the program, `None` for one that is not an array of numbers."""
    if not isinstance(aval.dtype, np.dtype):
        return None
    return Node(CONSTANT, (), {"value": value}, tuple(aval.shape), aval.dtype)


def scattered(node: Node) -> Node:
    """Entries of a value, any of them and in any shape, as of the slices that a loop reads."""
    return Node(SCATTERED, (node,), {}, node.shape, node.dtype)


def result_node(equation: Any, operands: Sequence[Node | None]) -> Node | None:
    """The result of an operation on known values, `None` if it is not known."""
    name, (out, *others) = equation.primitive.name, equation.outvars
    shape, dtype = tuple(getattr(out.aval, "shape", ())), getattr(out.aval, "dtype", None)
    if others or not isinstance(dtype, np.dtype):
        return None
    if name in ("gather", "dynamic_slice"):
        operand, indices = operands[0], operands[1]
        if operand is None:
            return None
        one_axis = name == "gather" and len(operand.shape) == 1 and len(shape) < 2
        if indices is None or not one_axis or equation.params["slice_sizes"] != (1,):
            return scattered(operand)
        return Node(name, (operand, indices), {}, shape, dtype)
    if name not in _KNOWN or None in operands:
        return None
    return Node(name, tuple(operands), equation.params, shape, dtype)  # type: ignore[arg-type]


def literal_node(atom: Any) -> Node | None:
    """The node of a literal."""
    return constant_node(atom.val, atom.aval) if isinstance(atom, core.Literal) else None


class _Value(NamedTuple):
    """Entries, and whether their places are known; else the array is flat."""

    array: np.ndarray
    placed: bool = True


class HostValues:
    """Evaluates nodes at inputs.

    Args:
        inputs: arrays by name.
        partial: inputs of which these arrays are some entries only.
    """

    def __init__(self, inputs: Mapping[str, Any], partial: Set[str] = frozenset()) -> None:
        self._inputs = inputs
        self._partial = partial
        self._known: dict[int, _Value | None] = {}

    def __call__(self, node: Node) -> np.ndarray | None:
        """The entries of a node, `None` if an input is missing."""
        found = self._value(node)
        return None if found is None else found.array

    def input(self, name: str) -> Any:
        """An input."""
        return self._inputs[name]

    def origin(self, node: Node, name: str) -> np.ndarray | None:
        """By entry of a node, the flat index of that of an input which it comes from, else -1."""
        found = self._origin(node, name)
        return None if found is None else found.array

    def _value(self, node: Node) -> _Value | None:
        lookup = id(node)
        if lookup not in self._known:
            self._known[lookup] = self._evaluate(node)
        return self._known[lookup]

    def _evaluate(self, node: Node) -> _Value | None:
        if node.rule == INPUT:
            return self._input(node)
        if node.rule == CONSTANT:
            return _Value(np.asarray(node.params["value"], node.dtype))
        if node.rule == "select_n":
            return self._selected(node, self._value)
        operands = [self._value(one) for one in node.operands]
        if node.rule in _UFUNCS:
            return _aligned(operands, _UFUNCS[node.rule])
        if node.rule not in _ELEMENTWISE:
            return _moved(node, operands)
        function = _ELEMENTWISE[node.rule]
        return _aligned(operands, lambda *arrays: function(node, *arrays))

    def _input(self, node: Node) -> _Value | None:
        array = self._inputs.get(node.params["name"])
        if array is None or not getattr(array, "is_fully_addressable", True):
            return None
        if node.params["name"] in self._partial:
            return _Value(np.ravel(np.asarray(array)), placed=False)
        return _Value(np.asarray(array))

    def _selected(self, node: Node, of: Callable[[Node], _Value | None]) -> _Value | None:
        """The chosen case; only what is chosen somewhere is evaluated."""
        which, cases = self._value(node.operands[0]), node.operands[1:]
        if which is None:
            return None
        low, high = (int(which.array.min()), int(which.array.max())) if which.array.size else (0, 0)
        if low == high:
            return of(cases[low])
        return _aligned([which, *map(of, cases)], _choose)

    def _origin(self, node: Node, name: str) -> _Value | None:
        value = self._value(node)
        if value is None:
            return None
        if node.rule == INPUT and node.params["name"] == name:
            return value._replace(array=np.arange(value.array.size).reshape(value.array.shape))
        if name not in node.inputs:
            return value._replace(array=np.full(value.array.shape, -1))
        if node.rule == "select_n":
            return self._selected(node, lambda one: self._origin(one, name))
        if node.rule == "gather":
            return _moved(
                node, [self._origin(node.operands[0], name), self._value(node.operands[1])]
            )
        operands = [self._origin(one, name) for one in node.operands]
        if node.rule in _ELEMENTWISE or node.rule in _UFUNCS:
            return _aligned(operands, lambda *arrays: np.max(np.broadcast_arrays(*arrays), axis=0))
        return _moved(node, operands)


def _aligned(values: Sequence[_Value | None], function: Callable[..., np.ndarray]) -> _Value | None:
    """An elementwise function of values, some of them perhaps scattered."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    placed = all(value.placed for value in known)
    if not placed:
        known = [_constant_as_scalar(value) for value in known]
        if len({value.array.size for value in known} - {1}) > 1:
            return None
    with np.errstate(all="ignore"):
        return _Value(np.asarray(function(*(value.array for value in known))), placed)


def _constant_as_scalar(value: _Value) -> _Value:
    """One entry of a value that is the same everywhere, to go with entries in any place."""
    flat = value.array.ravel()
    same = value.placed and flat.size > 0 and bool((flat == flat[0]).all())
    return value._replace(array=flat[:1] if same else flat)


def _moved(node: Node, operands: Sequence[_Value | None]) -> _Value | None:
    """The result of an operation that moves entries."""
    if any(value is None for value in operands):
        return None
    values = [value for value in operands if value is not None]
    if node.rule == SCATTERED:
        return _Value(values[0].array.ravel(), placed=False)
    if node.rule == "gather" and values[0].placed and not values[1].placed:
        array, indices = values[0].array, values[1].array
        return _Value(array[np.clip(indices, 0, len(array) - 1)], placed=False)
    if all(value.placed for value in values):
        return _Value(_MOVEMENT[node.rule](node, *(value.array for value in values)))
    return _Value(values[0].array.ravel(), placed=False) if len(values) == 1 else None


def _choose(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if len(cases) == 2:
        return np.where(which, cases[1], cases[0])
    return np.select([which == i for i in range(len(cases))], cases)


def _divide(node: Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if node.dtype.kind not in "iu":
        return a / b
    quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b))
    return (quotient * np.sign(a) * np.sign(b)).astype(node.dtype)


_UFUNCS: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "rem": np.fmod,
    "sign": np.sign,
    "abs": np.absolute,
    "floor": np.floor,
    "max": np.maximum,
    "min": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
}
_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "convert_element_type": lambda node, x: x.astype(node.dtype),
    "select_n": lambda _, which, *cases: _choose(which, *cases),
    "div": _divide,
    "clamp": lambda _, low, x, high: np.minimum(np.maximum(x, low), high),
    "copy": lambda _, x: x,
}


def _broadcast(node: Node, x: np.ndarray) -> np.ndarray:
    shape = np.ones(len(node.shape), int)
    shape[list(node.params["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(shape), node.shape)


def _slice(node: Node, x: np.ndarray) -> np.ndarray:
    starts, stops = node.params["start_indices"], node.params["limit_indices"]
    steps = node.params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, starts, stops, steps))]


def _take(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return x[np.clip(indices, 0, len(x) - 1)].reshape(node.shape)


_MOVEMENT: dict[str, Callable[..., np.ndarray]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": lambda node, x: x.reshape(node.shape),
    "squeeze": lambda node, x: x.reshape(node.shape),
    "transpose": lambda node, x: x.transpose(node.params["permutation"]),
    "rev": lambda node, x: np.flip(x, node.params["dimensions"]),
    "slice": _slice,
    "concatenate": lambda node, *xs: np.concatenate(xs, node.params["dimension"]),
    "iota": lambda node: np.broadcast_to(
        np.arange(node.shape[node.params["dimension"]], dtype=node.dtype).reshape(
            [-1 if i == node.params["dimension"] else 1 for i in range(len(node.shape))]
        ),
        node.shape,
    ),
    "gather": _take,
    SCATTERED: lambda _, x: x,
}
_KNOWN = _UFUNCS.keys() | _ELEMENTWISE.keys() | _MOVEMENT.keys()
