"""One forward pass over a traced program, from latent sites to polynomials in them.

Operations on data alone are executed, on arrays without the axes that are merely broadcast.
What no rule of `vijax.model.conjugacy.rules` covers becomes `Opaque`, with the operation's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from vijax.model.conjugacy.axes import Substitution, align, broadcast, with_dims
from vijax.model.conjugacy.evaluation import evaluate
from vijax.model.conjugacy.values import (
    Known,
    Opaque,
    Polynomial,
    Value,
    broadcast_to,
    is_concrete,
    is_number,
    known,
    module_of,
    new_axes,
    sites_of,
)
from vijax.runtime.jaxpr import called_program, dependencies, execute

ELEMENTWISE = frozenset(
    [
        "abs",
        "add",
        "add_any",
        "acos",
        "acosh",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pow",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)


class Interpreter:
    """Interprets programs; equal operations on equal inputs give the same value.

    Args:
        moves: rules by primitive of operations that move elements, of data and latents alike:
            `(interpreter, equation, inputs) -> value`, or a list of values.
        arithmetic: likewise of operations with latents, `None` where the result is no polynomial.
        supports: `"real"`, `"positive"`, ... by site.
    """

    def __init__(self, moves: Any, arithmetic: Any, supports: dict[str, str]) -> None:
        self.moves, self.arithmetic, self.supports = moves, arithmetic, supports
        self.substitution = Substitution()
        self._memo: dict[tuple, tuple[list[Value], Sequence[Value]]] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program.

        Args:
            jaxpr: its operations.
            consts: values or arrays of its constants.
            inputs: of its arguments.
        """
        jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
        self._jaxpr = jaxpr
        values: dict[Any, Value] = {}

        def read(var: Any) -> Value:
            if isinstance(var, core.Literal):
                return self._constant(var.val)
            return values[var]

        def write(variables: Sequence[Any], found: Sequence[Value]) -> None:
            values.update(zip(variables, found, strict=True))

        write(jaxpr.constvars, [self._constant(c) for c in consts])
        write(jaxpr.invars, inputs)
        for equation in jaxpr.eqns:
            write(equation.outvars, self._equation(equation, [read(v) for v in equation.invars]))
        return [read(var) for var in jaxpr.outvars]

    def _constant(self, value: Any) -> Value:
        if isinstance(value, (Known, Opaque)) or hasattr(value, "terms"):
            return value
        if np.ndim(value) == 0 and is_concrete(value):
            lookup: tuple = ("literal", str(np.asarray(value).dtype), np.asarray(value).item())
        else:
            lookup = ("constant", id(value))
        if lookup not in self._memo:
            self._memo[lookup] = ([known(value)], (value,))
        return self._memo[lookup][0][0]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        inner = called_program(equation)
        if inner is not None:
            return self.run(*inner, inputs)
        lookup = (
            equation.primitive.name,
            _params(equation.params),
            tuple(str(out.aval.dtype) for out in equation.outvars),
            *map(id, inputs),
        )
        if lookup not in self._memo:
            self._memo[lookup] = (self._evaluate(equation, inputs), inputs)
        return self._memo[lookup][0]

    def _evaluate(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, shapes = equation.primitive.name, [out.aval.shape for out in equation.outvars]
        if name in self.moves:
            moved = self.moves[name](self, equation, inputs)
            return moved if isinstance(moved, list) else [moved]
        if all(isinstance(value, Known) for value in inputs):
            return _execute(self, equation, inputs)
        found = None
        if name in self.arithmetic and not any(isinstance(v, Opaque) for v in inputs):
            found = self.arithmetic[name](self, equation, inputs)
        if found is not None:
            return [found]
        elementwise = _elementwise_function(equation, inputs)
        if elementwise is not None:
            return [elementwise]
        opaque: list[Value] = [self.opaque(name, inputs, shape) for shape in shapes]
        return self._independent(equation, inputs, opaque) if len(shapes) > 1 else opaque

    def executed(self, equation: Any, inputs: Sequence[Known]) -> list[Value]:
        """An operation on whole arrays of data."""
        if equation.primitive.name == "concatenate" and all(is_number(v.array) for v in inputs):
            arrays = [full_array(value) for value in inputs]
            return [known(np.concatenate(arrays, equation.params["dimension"]))]
        return [known(out) for out in execute(self._jaxpr, equation, [*map(full_array, inputs)])]

    def _independent(
        self, equation: Any, inputs: Sequence[Value], outputs: Sequence[Value]
    ) -> list[Value]:
        """The outputs of an operation, executed where they depend on no latent site (of a loop)."""
        variables = {
            var: value
            for var, value in zip(equation.invars, inputs, strict=True)
            if not isinstance(var, core.Literal)
        }
        program = self._jaxpr.replace(
            constvars=[], invars=[*variables], outvars=equation.outvars, eqns=[equation]
        )
        labels = [frozenset((name, 0) for name in sites_of(v)) for v in variables.values()]
        used = [not found for found in dependencies(program, labels)]
        if not any(used):
            return [*outputs]
        program, needed = partial_eval.dce_jaxpr(program, used)
        pairs = zip(variables.values(), needed, strict=True)
        arrays = [full_array(v) for v, kept in pairs if kept and isinstance(v, Known)]
        found = iter(core.jaxpr_as_fun(core.ClosedJaxpr(program, ()))(*arrays))
        pairs = zip(outputs, used, strict=True)
        return [known(next(found)) if kept else value for value, kept in pairs]

    def opaque(self, name: str, inputs: Sequence[Value], shape: Sequence[int]) -> Opaque:
        """A value about which nothing is known but what it depends on."""
        sites = frozenset[str]().union(*map(sites_of, inputs))
        inside = next((v for v in inputs if isinstance(v, Opaque)), None)
        return Opaque(new_axes(shape), name if inside is None else inside.function, sites)


def _elementwise_function(equation: Any, inputs: Sequence[Value]) -> Opaque | None:
    """An elementwise function of a single polynomial and numbers, `None` for anything else."""
    name = equation.primitive.name
    arguments = {
        id(v.argument if isinstance(v, Opaque) else v): v
        for v in inputs
        if not isinstance(v, Known)
    }
    numbers = [v for v in inputs if isinstance(v, Known)]
    plain = all(not v.labels and is_concrete(v.array) for v in numbers)
    first = next(iter(arguments.values()))
    if name not in ELEMENTWISE or len(arguments) > 1 or not plain:
        return None
    opaque = next((v for v in inputs if isinstance(v, Opaque)), None)
    if opaque is not None and (opaque.argument is None or opaque.apply is None):
        return None
    argument = opaque.argument if opaque is not None else first
    assert isinstance(argument, Polynomial)
    parts = [
        v.array if isinstance(v, Known) else v.apply if isinstance(v, Opaque) else _identity
        for v in inputs
    ]

    def apply(values: Any) -> Any:
        arrays = [part(values) if callable(part) else part for part in parts]
        shape = jnp.shape(values)
        dtypes = [var.aval.dtype for var in equation.invars]
        scalars = name in ("clamp",)
        typed = [
            module_of(a).asarray(a, _widened(dtype))
            for a, dtype in zip(arrays, dtypes, strict=True)
        ]
        return evaluate(equation, typed if scalars else [broadcast_to(a, shape) for a in typed])

    sites = frozenset[str]().union(*map(sites_of, inputs))
    called = name if opaque is None else opaque.function
    return Opaque(first.dims, called, sites, argument, apply)


def _widened(dtype: Any) -> Any:
    return jnp.result_type(float) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _identity(value: Any) -> Any:
    return value


def full_array(value: Known) -> Any:
    """The array of a value with all of its dimensions."""
    shape = tuple(axis.size for axis in value.dims)
    array = align(value.array, value.labels, value.dims)
    if np.shape(array) == shape:
        return array
    return broadcast_to(array, shape)


def _execute(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> list[Value]:
    """An operation on data."""
    arrays: list[Any]
    if equation.primitive.name in ELEMENTWISE:
        dims = broadcast(*inputs)
        inputs = [with_dims(v, dims) if v.dims else v for v in inputs]
        labels = tuple(a for a in dims if any(a in v.labels for v in inputs))
        many = len({np.shape(align(v.array, v.labels, labels)) for v in inputs}) > 1
        arrays = [align(v.array, v.labels, labels) if labels else v.array for v in inputs]
        if many and labels:
            shape = tuple(axis.size for axis in labels)
            scalars = equation.primitive.name in ("clamp", "select_n")
            arrays = [a if scalars and not np.ndim(a) else broadcast_to(a, shape) for a in arrays]
        return [Known(dims, evaluate(equation, arrays), labels)]
    return interpreter.executed(equation, inputs)


def _params(params: dict[str, Any]) -> str:
    """The parameters of an operation, as a key."""
    return str(sorted((k, str(v)) for k, v in params.items() if k not in ("sharding",)))
