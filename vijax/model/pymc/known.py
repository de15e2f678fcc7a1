"""Programs of equal models: a model that is built anew, with other data, compiles nothing."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs, io_toposort

from vijax.model.pymc.graphs import is_rng
from vijax.model.pymc.program import Program

_MOST = 32


class _Known(NamedTuple):
    """A model as a graph, and its program."""

    names: Any
    outputs: list[Variable]
    inputs: list[Variable]
    fixed: list[np.ndarray]
    program: Program


_programs: collections.deque[_Known] = collections.deque(maxlen=_MOST)


def known_program(
    model: Any,
    data: dict[str, Variable],
    shapes: dict[str, tuple[int, ...]],
    make: Callable[[], Program],
) -> Program:
    """The program of an equal model, or a new one.

    Args:
        model: a PyMC model.
        data: its data by name, whose values do not matter.
        shapes: of its free variables.
        make: makes its program.
    """
    names, outputs = _outputs(model)
    names = (
        names,
        tuple(data),
        tuple(sorted(shapes.items())),
        tuple(v.type for v in data.values()),
    )
    known_inputs = set(data.values())
    others = [v for v in graph_inputs(outputs) if v not in known_inputs]
    others = [v for v in others if not isinstance(v, Constant)]
    inputs = [*data.values(), *others]
    fixed = [v.get_value() for v in others if isinstance(v, SharedVariable) and not is_rng(v)]
    for known in _programs:
        if known.names != names or len(known.inputs) != len(inputs):
            continue
        same = all(map(np.array_equal, known.fixed, fixed)) and len(known.fixed) == len(fixed)
        if same and _equal(outputs, known.outputs, inputs, known.inputs):
            return known.program
    program = make()
    _programs.append(_Known(names, outputs, inputs, fixed, program))
    return program


def _equal(
    outputs: Sequence[Variable],
    others: Sequence[Variable],
    inputs: Sequence[Variable],
    other_inputs: Sequence[Variable],
) -> bool:
    """Whether two graphs compute the same of inputs in the same order."""
    pairs = dict(zip(inputs, other_inputs, strict=True))
    nodes, other_nodes = io_toposort(inputs, outputs), io_toposort(other_inputs, others)
    if len(nodes) != len(other_nodes) or len(outputs) != len(others):
        return False

    def match(variable: Variable, other: Variable) -> bool:
        if variable in pairs:
            return pairs[variable] is other
        return isinstance(variable, Constant) and variable.equals(other)

    for node, other in zip(nodes, other_nodes, strict=True):
        same = len(node.inputs) == len(other.inputs) and _equal_operations(node.op, other.op)
        if not (same and all(map(match, node.inputs, other.inputs))):
            return False
        pairs.update(zip(node.outputs, other.outputs, strict=True))
    return all(map(match, outputs, others))


def _equal_operations(op: Any, other: Any) -> bool:
    """Whether two operations are the same; those that are graphs compare by identity otherwise."""
    if op == other:
        return True
    if type(op) is not type(other) or not isinstance(op, OpFromGraph):
        return False
    inner, outer = op.fgraph, other.fgraph
    plain = _plain(op) == _plain(other) and len(inner.inputs) == len(outer.inputs)
    return plain and _equal(inner.outputs, outer.outputs, inner.inputs, outer.inputs)


def _plain(op: Any) -> dict[str, Any]:
    return {n: v for n, v in vars(op).items() if isinstance(v, (bool, int, str, tuple, type(None)))}


def _outputs(model: Any) -> tuple[Any, list[Variable]]:
    """All that a program is made of: names with dims, and graphs of variables and transforms."""
    outputs: list[Variable] = []
    names: list[Any] = []
    for rv in model.basic_RVs:
        value, transform = model.rvs_to_values[rv], model.rvs_to_transforms[rv]
        names.append((rv.name, rv in model.free_RVs, model.named_vars_to_dims.get(rv.name)))
        outputs += [rv] if isinstance(value, Constant) else [rv, value]
        if transform is not None:
            outputs.append(transform.backward(value, *rv.owner.inputs))
    for variable in [*model.deterministics, *model.potentials]:
        names.append((variable.name, variable in model.potentials))
        names.append(model.named_vars_to_dims.get(variable.name))
        outputs.append(variable)
    return repr(names), outputs
