"""Accesses of a traced program to arrays by indices that its inputs alone determine.

JAX checks no bounds: `x[i]` beyond the end is the last element. A mode that a program asks for
(`x.at[i].get(mode="clip")`, or `"fill"` with a value) is meant, and not among these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core
from jax.lax import GatherScatterMode

from vijax.runtime.compilation import fast_compilation
from vijax.runtime.compilation_cache import OnDisk
from vijax.runtime.host_values import (
    HostValues,
    Node,
    constant_node,
    input_node,
    literal_node,
    result_node,
    scattered,
)
from vijax.runtime.jaxpr import num_consts_and_carry

Nodes = dict[Any, Node | None]

# NaN is found wherever it goes, also in a sum whose rounding hides other changes, but a factor of
# zero does not remove it; the others it does, and no function is likely to be equal at them
_FILLS = (math.nan, 0.3137, 29.7131)


class Gather(NamedTuple):
    """An access by index, `array[..., indices, ...]`.

    Attributes:
        indices: into the axis, those below zero already counted from the end.
        array: name of the array, empty if it has none.
        shape: its shape.
        axis: the axis.
        source: the traceback of the operation.
    """

    indices: Node
    array: str
    shape: tuple[int, ...]
    axis: int
    source: Any

    @property
    def size(self) -> int:
        """Length of the axis."""
        return self.shape[self.axis]

    def bad(self, values: HostValues) -> np.ndarray | None:
        """Which indices are beyond the ends, `None` if none is or they are not known."""
        found = values(self.indices)
        if found is None or not found.size or (found.min() >= 0 and found.max() < self.size):
            return None
        return (found < 0) | (found >= self.size)


def find_gathers(
    closed: Any, inputs: Sequence[str | None], names: Mapping[int, str]
) -> tuple[tuple[Gather, ...], list[Node | None]]:
    """The accesses of a program by indices from named inputs or constants.

    Args:
        closed: the closed jaxpr.
        inputs: the names of its inputs; `None` for those that are not data.
        names: of its outputs, by their number, for arrays.

    Returns:
        Those accesses, without the ones by constants within bounds; and the outputs as functions
        of the inputs, `None` where they are not known.
    """
    jaxpr, walk = closed.jaxpr, _Walk()
    labels = {jaxpr.outvars[i]: name for i, name in names.items() if _is_var(jaxpr.outvars[i])}
    nodes = [
        None if name is None else input_node(name, var.aval)
        for name, var in zip(inputs, jaxpr.invars, strict=True)
    ]
    out, _ = walk.run(closed, nodes, [labels.get(var, "") for var in jaxpr.invars], labels)
    return tuple(walk.found), out


def _is_var(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)


class _Walk:
    """One pass over a program and those inside it."""

    def __init__(self) -> None:
        self.found: list[Gather] = []
        self._call: Any = None  # the outermost call of a compiled function that is being walked

    def run(
        self,
        program: Any,
        nodes: Sequence[Node | None],
        labels: Sequence[str],
        known_labels: Mapping[Any, str] | None = None,
    ) -> tuple[list[Node | None], list[str]]:
        """Nodes and names of the outputs of a program, given those of its inputs."""
        jaxpr, consts = program, []
        if isinstance(program, core.ClosedJaxpr):
            jaxpr, consts = program.jaxpr, program.consts
        of: Nodes = dict(zip(jaxpr.invars, nodes, strict=True))
        of |= {
            var: constant_node(value, var.aval)
            for var, value in zip(jaxpr.constvars, consts, strict=False)
        }
        names = dict(known_labels or {})
        names |= {var: name for var, name in zip(jaxpr.invars, labels, strict=True) if name}

        def node(atom: Any) -> Node | None:
            return of.get(atom) if _is_var(atom) else literal_node(atom)

        def label(atom: Any) -> str:
            return names.get(atom, "") if _is_var(atom) else ""

        for equation in jaxpr.eqns:
            operands = [node(atom) for atom in equation.invars]
            if equation.primitive.name in ("gather", "dynamic_slice"):
                self._record(equation, operands, label(equation.invars[0]))
            inner = self._inside(equation, operands, [label(atom) for atom in equation.invars])
            if inner is not None:
                of.update(zip(equation.outvars, inner[0], strict=True))
                for var, name in zip(equation.outvars, inner[1], strict=True):
                    names.setdefault(var, name)
            elif any(operands) or not operands:
                of[equation.outvars[0]] = result_node(equation, operands)
                if equation.primitive.name == "convert_element_type":
                    names.setdefault(equation.outvars[0], label(equation.invars[0]))
        return [node(atom) for atom in jaxpr.outvars], [label(atom) for atom in jaxpr.outvars]

    def _inside(
        self, equation: Any, nodes: Sequence[Node | None], labels: Sequence[str]
    ) -> tuple[Sequence[Node | None], Sequence[str]] | None:
        """Nodes and names of the outputs of an operation with programs inside, `None` without."""
        unknown = [None] * len(equation.outvars), [""] * len(equation.outvars)
        name, params = equation.primitive.name, equation.params
        if name in ("gather", "dynamic_slice") or name.startswith("scatter"):
            return None
        inner = list(core.jaxprs_in_params(params))
        if not inner:
            return None
        if name == "scan":
            start, num_carry = num_consts_and_carry(equation)
            stop = start + num_carry
            stacked = [None if one is None else scattered(one) for one in nodes[stop:]]
            inside = [*nodes[:start], *[None] * num_carry, *stacked]
            names = [*labels[:start], *[""] * (len(nodes) - start)]
            self.run(params["jaxpr"], inside, names)
            return unknown
        if name == "cond":
            for branch in params["branches"]:
                self.run(branch, nodes[1:], labels[1:])
            return unknown
        if name == "while":
            first, num = params["cond_nconsts"], params["body_nconsts"]
            num_carry = len(nodes) - first - num
            inside = [*nodes[first : first + num], *[None] * num_carry]
            self.run(
                params["body_jaxpr"], inside, [*labels[first : first + num], *[""] * num_carry]
            )
            return unknown
        if len(inner) != 1 or len(inner[0].invars) != len(nodes):
            return unknown
        program = next((p for p in params.values() if _is_program(p)), inner[0])
        outer, self._call = self._call, self._call or equation  # `jit` may have traced it before
        found = self.run(program, nodes, labels)
        self._call = outer
        return found if len(found[0]) == len(equation.outvars) else unknown

    def _record(self, equation: Any, operands: Sequence[Node | None], label: str) -> None:
        shape = tuple(equation.invars[0].aval.shape)
        for indices, axis in _indices(equation, operands):
            one_entry = equation.params["slice_sizes"][axis] == 1
            if indices is None or not one_entry or not math.prod(shape):
                continue
            source = (self._call or equation).source_info.traceback
            gather = Gather(indices, label, shape, axis, source)
            if not indices.is_constant or gather.bad(HostValues({})) is not None:
                self.found.append(gather)


def uses_out_of_range(function: Callable[..., Any], *arrays: Any) -> bool:
    """Whether the results of a function depend on what it reads beyond the ends of its arrays.

    That is filled with NaN or with numbers, which a factor of zero removes, instead of the last
    element.

    Args:
        function: of arrays, to a pytree of arrays.
        arrays: its arguments. Results that are not finite say nothing, and count as a dependence
            if none is finite.
    """
    closed = jax.make_jaxpr(function)(*arrays)
    leaves = jax.tree.leaves(arrays)
    functions = [core.jaxpr_as_fun(_with_fill(closed, fill)) for fill in (None, *_FILLS)]

    def each(*leaves: Array) -> list[list[Array]]:
        return [one(*leaves) for one in functions]

    with OnDisk():
        clipped, unknown, *numbers = jax.jit(each, compiler_options=fast_compilation())(*leaves)
    finite = [np.isfinite(one).all() for one in clipped if jnp.issubdtype(one.dtype, jnp.floating)]
    unused = _equal(unknown, clipped) or all(_equal(one, clipped) for one in numbers)
    return not unused or not any(finite)


def _equal(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether all numbers are the same."""
    return all(
        np.array_equal(np.asarray(one), np.asarray(other), equal_nan=one.dtype.kind in "fc")
        for one, other in zip(some, others, strict=True)
        if isinstance(one.dtype, np.dtype)
    )


def _with_fill(program: Any, fill: float | None) -> Any:
    """The program with the last element, or `fill`, wherever it did not choose a mode."""
    if isinstance(program, (tuple, list)):
        return type(program)(_with_fill(one, fill) for one in program)
    if isinstance(program, core.ClosedJaxpr):
        return program.replace(jaxpr=_with_fill(program.jaxpr, fill))
    if not isinstance(program, core.Jaxpr):
        return program
    equations = []
    for equation in program.eqns:
        name = equation.primitive.name
        if name == "gather" and _is_silent(equation):
            operand: Any = equation.invars[0].aval
            mode = GatherScatterMode.CLIP if fill is None else GatherScatterMode.FILL_OR_DROP
            filled = {"mode": mode, "fill_value": _fill_value(operand.dtype, fill)}
            equation = equation.replace(params=equation.params | filled)
        elif name == "dynamic_slice" and fill is not None:
            equation = _filled_slice(equation, fill)
        elif any(core.jaxprs_in_params(equation.params)):
            params = {key: _with_fill(value, fill) for key, value in equation.params.items()}
            equation = equation.replace(params=params)
        equations.append(equation)
    return program.replace(eqns=equations)


def _fill_value(dtype: Any, fill: float | None) -> Any:
    """What no calculation takes for a number of the model; the smallest integer."""
    if not jnp.issubdtype(dtype, jnp.integer):
        return fill if jnp.issubdtype(dtype, jnp.inexact) else False
    return int(jnp.iinfo(dtype).min)


def _filled_slice(equation: Any, fill: float) -> Any:
    """A slice at indices that are not constant, `fill` if these are out of range."""
    sizes = equation.params["slice_sizes"]

    def filled(x: Array, *starts: Array) -> Array:
        valid = jnp.bool_(True)
        for start, length, size in zip(starts, x.shape, sizes, strict=True):
            valid &= (start >= 0) & (start < length) if size == 1 else True
        found = jax.lax.dynamic_slice(x, starts, sizes)
        return jnp.where(valid, found, jnp.asarray(_fill_value(x.dtype, fill), x.dtype))

    if not isinstance(getattr(equation.outvars[0].aval, "dtype", None), np.dtype):
        return equation
    avals = [jax.ShapeDtypeStruct(one.aval.shape, one.aval.dtype) for one in equation.invars]
    (call,) = jax.make_jaxpr(jax.jit(filled))(*avals).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)


def _is_program(value: Any) -> bool:
    return isinstance(value, (core.ClosedJaxpr, core.Jaxpr))


def _indices(equation: Any, operands: Sequence[Node | None]) -> list[tuple[Node | None, int]]:
    """The indices of an access and the axis of each, none where the program chose a mode."""
    if equation.primitive.name == "dynamic_slice":
        return [(indices, axis) for axis, indices in enumerate(operands[1:])]
    indices = operands[1]
    if indices is None or not _is_silent(equation):
        return []
    axes = equation.params["dimension_numbers"].start_index_map
    return [(_component(indices, i, len(axes)), axis) for i, axis in enumerate(axes)]


def _is_silent(equation: Any) -> bool:
    """Whether a gather has the mode that `x[i]` and `jnp.take` have by default."""
    params = equation.params
    mode, fill = params["mode"], params.get("fill_value")
    if mode == GatherScatterMode.CLIP:  # a scalar index under vmap
        return not params["dimension_numbers"].collapsed_slice_dims
    if mode == GatherScatterMode.FILL_OR_DROP:
        return fill is None or bool(np.ndim(fill) == 0 and fill != fill)
    return mode == GatherScatterMode.PROMISE_IN_BOUNDS


def _component(indices: Node, i: int, num: int) -> Node:
    """`indices[..., i]` of a node whose last axis has length `num`."""
    if num == 1:
        return indices
    last = len(indices.shape) - 1
    if (
        indices.rule == "concatenate"
        and indices.params["dimension"] == last
        and all(one.shape[last] == 1 for one in indices.operands)
    ):
        return indices.operands[i]
    starts = (*[0] * last, i)
    stops = (*indices.shape[:last], i + 1)
    params = {"start_indices": starts, "limit_indices": stops, "strides": None}
    return Node("slice", (indices,), params, (*indices.shape[:last], 1), indices.dtype)
