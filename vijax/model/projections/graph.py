"""A traced program as a graph whose values are known, affine in the inputs, or neither.

Operations on data alone are executed at once; calls of inner programs are inlined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core

from vijax.runtime.jaxpr import called_program, execute

# linear in all their operands together
_LINEAR = frozenset(
    [
        "add",
        "add_any",
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "cumsum",
        "expand_dims",
        "neg",
        "pad",
        "reduce_sum",
        "reshape",
        "rev",
        "slice",
        "split",
        "squeeze",
        "stack",
        "sub",
        "tile",
        "transpose",
        "unstack",
    ]
)
# linear in the operands at these places, all others known
_LINEAR_IN: dict[str, tuple[int, ...]] = {
    "div": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    "scatter": (0, 2),
    "scatter-add": (0, 2),
    "scatter_add": (0, 2),
    "triangular_solve": (1,),
}
_BILINEAR = ("mul", "dot_general")


@dataclasses.dataclass(eq=False)
class Node:
    """A value of the program.

    Attributes:
        shape: its shape.
        dtype: its type.
        kind: `"known"`, `"affine"` in the inputs, or `"other"`.
        latents: the inputs that it depends on.
        array: the value of a known one.
        equation: the operation that it is a result of, `None` for inputs and constants.
        operands: of the operation.
        place: its number among the results.
    """

    shape: tuple[int, ...]
    dtype: Any
    kind: str
    latents: frozenset[str] = frozenset()
    array: Any = None
    equation: Any = None
    operands: tuple[Node, ...] = ()
    place: int = 0

    @property
    def first_nonlinear(self) -> str:
        """The name of the first operation by which it is not affine."""
        inside = next((one for one in self.operands if one.kind == "other"), None)
        return self.operation if inside is None else inside.first_nonlinear

    @property
    def operation(self) -> str:
        """The name of its primitive, `""` for inputs and constants."""
        return "" if self.equation is None else str(self.equation.primitive.name)


def known_node(array: Any) -> Node:
    """A value that depends on no input."""
    return Node(jnp.shape(array), jnp.result_type(array), "known", array=array)


def graph(
    function: Callable[[Mapping[str, Array]], Any], shapes: Mapping[str, Any]
) -> tuple[dict[str, Node], Any]:
    """The program of a function of named arrays.

    Args:
        function: of arrays by name, to a tree of arrays.
        shapes: of these arrays.

    Returns:
        The inputs, and a tree of nodes in place of the results.
    """
    closed, tree = jax.make_jaxpr(function, return_shape=True)(dict(shapes))
    inputs = {
        name: Node(tuple(s.shape), s.dtype, "affine", frozenset([name]))
        for name, s in shapes.items()
    }
    ordered = [inputs[name] for name in sorted(inputs)]  # as JAX flattens a dict
    found = _run(closed.jaxpr, [known_node(c) for c in closed.consts], ordered)
    return inputs, jax.tree.unflatten(jax.tree.structure(tree), found)


def _run(jaxpr: Any, consts: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
    nodes: dict[Any, Node] = dict(zip(jaxpr.constvars, consts, strict=True))
    nodes.update(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Node:
        return known_node(var.val) if isinstance(var, core.Literal) else nodes[var]

    for equation in jaxpr.eqns:
        results = _equation(jaxpr, equation, [read(var) for var in equation.invars])
        nodes.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _equation(jaxpr: Any, equation: Any, operands: list[Node]) -> list[Node]:
    if all(node.kind == "known" for node in operands):
        results = execute(jaxpr, equation, [node.array for node in operands])
        return [known_node(result) for result in results]
    inner = called_program(equation)
    if inner is not None:
        body, consts = inner
        return _run(body, [known_node(c) for c in consts], operands)
    kind = "affine" if _is_affine(equation.primitive.name, operands) else "other"
    latents = frozenset[str]().union(*(node.latents for node in operands))
    return [
        Node(tuple(out.aval.shape), out.aval.dtype, kind, latents, None, equation, (*operands,), i)
        for i, out in enumerate(equation.outvars)
    ]


def _is_affine(name: str, operands: Sequence[Node]) -> bool:
    """Whether an operation on known and affine values has an affine result."""
    kinds = [node.kind for node in operands]
    if "other" in kinds:
        return False
    places = [i for i, kind in enumerate(kinds) if kind == "affine"]
    if name in _LINEAR:
        return bool(jnp.issubdtype(operands[places[0]].dtype, jnp.floating))
    if name in _BILINEAR:
        return len(places) == 1
    if name == "select_n":
        return 0 not in places
    return name in _LINEAR_IN and set(places) <= set(_LINEAR_IN[name])


def affine_values(
    nodes: Sequence[Node], inputs: Mapping[str, Node], arrays: Mapping[str, Array]
) -> list[Array]:
    """The values of affine nodes where the inputs have these values."""
    found: dict[Node, Any] = {inputs[name]: array for name, array in arrays.items()}

    def value(node: Node) -> Any:
        if node.kind == "known":
            return node.array
        if node not in found:
            operands = [value(one) for one in node.operands]
            results = node.equation.primitive.bind(*operands, **node.equation.params)
            many = node.equation.primitive.multiple_results
            found[node] = results[node.place] if many else results
        return found[node]

    return [value(node) for node in nodes]
