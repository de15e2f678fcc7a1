"""What the outputs of a traced program depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval


def has_loop(jaxpr: Any, length: int) -> bool:
    """Whether a program has a loop of at least `length` steps, or of unknown length."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            return True
        if equation.primitive.name == "scan" and equation.params["length"] >= length:
            return True
        if any(has_loop(inner, length) for inner in core.jaxprs_in_params(equation.params)):
            return True
    return False


def has_gradient(jaxpr: Any) -> bool:
    """Whether a program can be differentiated: it calls no other program without saying how."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("pure_callback", "io_callback"):
            return False
        if not name.startswith(("custom_jvp", "custom_vjp")) and not all(
            map(has_gradient, core.jaxprs_in_params(equation.params))
        ):
            return False
    return True


def used_inputs(jaxpr: Any, wanted: list[bool]) -> list[bool]:
    """Which inputs the wanted outputs depend on; looks into loops and inner programs as well."""
    return partial_eval.dce_jaxpr(jaxpr, wanted)[1]


def num_consts_and_carry(equation: Any) -> tuple[int, int]:
    """How many inputs of a `scan` are the same in every step, and how many are carried on.

    They come in this order; the rest has an axis of steps, which the body does not see. Told by
    that, since the parameters that say so differ between versions of JAX.
    """
    body = equation.params["jaxpr"].jaxpr
    stacked = _num_stacked(equation.invars, body.invars)
    carried = len(equation.outvars) - _num_stacked(equation.outvars, body.outvars)
    return len(equation.invars) - carried - stacked, carried


def _num_stacked(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(outer.aval.ndim > inner.aval.ndim for outer, inner in pairs)


Dependencies = frozenset[tuple[str, int]]  # labels, each with the number of steps it was carried


def dependencies(
    jaxpr: Any, inputs: Sequence[Dependencies], looped: frozenset[str] = frozenset()
) -> list[Dependencies]:
    """Which labels of the inputs each output depends on, and through how many steps of a loop.

    Args:
        jaxpr: the program.
        inputs: labels of its inputs.
        looped: labels that enter every step of a loop: a label carried from one step of such a
            loop to the next, or into its first, grows older by one. Ages end at 2.

    Returns:
        One for each output. Dependence through what this cannot look into is assumed.
    """
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        incoming = [_lineage_of(known, atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _through(equation, incoming, looped), strict=True))
    return [_lineage_of(known, atom) for atom in jaxpr.outvars]


def _lineage_of(known: dict[Any, Dependencies], atom: Any) -> Dependencies:
    return frozenset() if isinstance(atom, core.Literal) else known.get(atom, frozenset())


def _through(
    equation: Any, incoming: Sequence[Dependencies], looped: frozenset[str]
) -> Sequence[Dependencies]:
    together = frozenset[tuple[str, int]]().union(*incoming)
    if together and equation.primitive.name == "scan":
        return _through_scan(equation, incoming, looped)
    inner = list(core.jaxprs_in_params(equation.params))
    if together and len(inner) == 1 and equation.primitive.name != "while":
        (body,) = inner
        shape = (len(equation.invars), len(equation.outvars))
        if (len(body.invars), len(body.outvars)) == shape:
            return dependencies(body, incoming, looped)
    return [together] * len(equation.outvars)


def _through_scan(
    equation: Any, incoming: Sequence[Dependencies], looped: frozenset[str]
) -> list[Dependencies]:
    start, num_carry = num_consts_and_carry(equation)
    stop, body = start + num_carry, equation.params["jaxpr"].jaxpr
    every_step = frozenset[tuple[str, int]]().union(*incoming[:start], *incoming[stop:])
    ages = any((label, 0) in every_step for label in looped)

    def carried(one: Dependencies) -> Dependencies:
        return frozenset((label, min(age + 1, 2)) for label, age in one) if ages else one

    carry = [carried(one) for one in incoming[start:stop]]
    while True:
        inputs = [*incoming[:start], *carry, *incoming[stop:]]
        out = dependencies(body, inputs)
        following = [old | carried(new) for old, new in zip(carry, out[: len(carry)], strict=True)]
        if following == carry:
            return out
        carry = following
