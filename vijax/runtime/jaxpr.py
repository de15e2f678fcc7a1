"""Traced programs (jaxprs): what depends on what, inner programs, single operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def called_program(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """The program that an operation calls once, and its constants; `None` of any other one."""
    inner = next((equation.params[name] for name in _CALLS if name in equation.params), None)
    if inner is None or equation.primitive.name in ("scan", "while", "cond"):
        return None
    closed = isinstance(inner, core.ClosedJaxpr)
    return (inner.jaxpr, inner.consts) if closed else (inner, ())


def execute(jaxpr: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
    """The outputs of one operation of a program, evaluated as a program of its own."""
    pairs = zip(equation.invars, values, strict=True)
    inputs = {atom: value for atom, value in pairs if not isinstance(atom, core.Literal)}
    single = jaxpr.replace(
        constvars=[], invars=[*inputs], outvars=[*equation.outvars], eqns=[equation]
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))(*inputs.values())


def has_loop(jaxpr: Any, length: int) -> bool:
    """Whether a program has a loop of at least `length` steps or of unknown length."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            return True
        if equation.primitive.name == "scan" and equation.params["length"] >= length:
            return True
        if any(has_loop(inner, length) for inner in core.jaxprs_in_params(equation.params)):
            return True
    return False


def has_gradient(jaxpr: Any) -> bool:
    """Whether a program is differentiable: all its callbacks are inside a custom derivative."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("pure_callback", "io_callback"):
            return False
        if not name.startswith(("custom_jvp", "custom_vjp")) and not all(
            map(has_gradient, core.jaxprs_in_params(equation.params))
        ):
            return False
    return True


def loops_over(jaxpr: Any, inputs: Sequence[bool]) -> bool:
    """Whether a loop of unknown length changes a number that depends on the marked inputs.

    Such a loop (`jax.lax.while_loop`) has no derivative in reverse mode, unless it is inside a
    custom one.
    """
    marked = {var for var, mark in zip(jaxpr.invars, inputs, strict=True) if mark}
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        incoming = [not isinstance(a, core.Literal) and a in marked for a in equation.invars]
        if not any(incoming):
            continue
        marked.update(equation.outvars)
        if name.startswith(("custom_jvp", "custom_vjp")):
            continue
        if name == "while":
            if any(jnp.issubdtype(out.aval.dtype, jnp.floating) for out in equation.outvars):
                return True
            continue
        for inner in core.jaxprs_in_params(equation.params):
            same = len(inner.invars) == len(incoming)
            if loops_over(inner, incoming if same else [True] * len(inner.invars)):
                return True
    return False


def used_inputs(jaxpr: Any, outputs: list[bool]) -> list[bool]:
    """Which inputs the selected outputs depend on, by dead code elimination.

    Recurses into loops and inner programs.
    """
    return partial_eval.dce_jaxpr(jaxpr, outputs)[1]


def without_dead_code(function: Callable[..., Any], *shapes: Any) -> Callable[..., list[Any]]:
    """A function of these shapes as the operations that its results need, to be traced again.

    Transformations of a function take half a millisecond for every operation, needed or not.

    Args:
        function: of arrays.
        shapes: of its arguments.

    Returns:
        A function with the same arguments that returns the list of the leaves of the result.
    """
    closed = jax.make_jaxpr(function)(*shapes)
    outputs = [True] * len(closed.jaxpr.outvars)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, outputs, instantiate=True)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, closed.consts))


def depends_on_first_input(jaxpr: Any, outputs: Iterable[int]) -> list[bool]:
    """Whether each of some outputs, given by their numbers, depends on the first input.

    Each output is followed back to what it is computed from, so that many outputs of a long
    program take no longer than the program is long.
    """
    producers = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    place = {id(equation): i for i, equation in enumerate(jaxpr.eqns)}
    found = []
    for output in [jaxpr.outvars[i] for i in outputs]:
        needed, left = {}, [output]
        while left:
            atom = left.pop()
            equation = None if isinstance(atom, core.Literal) else producers.get(atom)
            if equation is not None and id(equation) not in needed:
                needed[id(equation)] = equation
                left.extend(equation.invars)
        equations = [needed[key] for key in sorted(needed, key=place.__getitem__)]
        part = jaxpr.replace(eqns=equations, outvars=[output])
        found.append(used_inputs(part, [True])[0])
    return found


def num_consts_and_carry(equation: Any) -> tuple[int, int]:
    """The number of constant inputs of a `scan`, and the number of inputs in its carry.

    Inputs are in this order, followed by those with an axis of steps, which the body's inputs lack.
    Counted by that, since the names of the parameters differ between versions of JAX.
    """
    body = equation.params["jaxpr"].jaxpr
    stacked = _num_stacked(equation.invars, body.invars)
    num_carry = len(equation.outvars) - _num_stacked(equation.outvars, body.outvars)
    return len(equation.invars) - num_carry - stacked, num_carry


def _num_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(outer.aval.ndim > inner.aval.ndim for outer, inner in pairs)


Dependencies = frozenset[tuple[str, int]]  # labels, each with its lag in loop steps


def dependencies(
    jaxpr: Any, inputs: Sequence[Dependencies], looped: frozenset[str] = frozenset()
) -> list[Dependencies]:
    """Which labels of the inputs each output depends on, and at which lag in steps of a loop.

    Args:
        jaxpr: the program.
        inputs: labels of its inputs.
        looped: labels whose inputs enter every step of a loop. In the carry of such a loop, into
            its first step or from one step to the next, the lag of each label increases by one, up
            to 2.

    Returns:
        The dependencies of each output; conservative for primitives that cannot be analyzed.
    """
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        incoming = [_dependencies_of(known, atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _through(equation, incoming, looped), strict=True))
    return [_dependencies_of(known, atom) for atom in jaxpr.outvars]


def _dependencies_of(known: dict[Any, Dependencies], atom: Any) -> Dependencies:
    return frozenset() if isinstance(atom, core.Literal) else known.get(atom, frozenset())


def _through(
    equation: Any, incoming: Sequence[Dependencies], looped: frozenset[str]
) -> Sequence[Dependencies]:
    union = frozenset[tuple[str, int]]().union(*incoming)
    if union and equation.primitive.name == "scan":
        return _through_scan(equation, incoming, looped)
    inner = list(core.jaxprs_in_params(equation.params))
    if union and len(inner) == 1 and equation.primitive.name != "while":
        (body,) = inner
        shape = (len(equation.invars), len(equation.outvars))
        if (len(body.invars), len(body.outvars)) == shape:
            return dependencies(body, incoming, looped)
    return [union] * len(equation.outvars)


def _through_scan(
    equation: Any, incoming: Sequence[Dependencies], looped: frozenset[str]
) -> list[Dependencies]:
    start, num_carry = num_consts_and_carry(equation)
    stop, body = start + num_carry, equation.params["jaxpr"].jaxpr
    every_step = frozenset[tuple[str, int]]().union(*incoming[:start], *incoming[stop:])
    lags = any((label, 0) in every_step for label in looped)

    def to_next_step(one: Dependencies) -> Dependencies:
        return frozenset((label, min(lag + 1, 2)) for label, lag in one) if lags else one

    carry = [to_next_step(one) for one in incoming[start:stop]]
    while True:
        inputs = [*incoming[:start], *carry, *incoming[stop:]]
        out = dependencies(body, inputs)
        following = [
            old | to_next_step(new) for old, new in zip(carry, out[: len(carry)], strict=True)
        ]
        if following == carry:
            return out
        carry = following
