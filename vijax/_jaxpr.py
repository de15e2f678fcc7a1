"""What the outputs of a traced program depend on."""

from __future__ import annotations

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


def needed_inputs(jaxpr: Any, wanted: list[bool]) -> list[bool]:
    """Which inputs the wanted outputs depend on; looks into loops and inner programs as well."""
    return partial_eval.dce_jaxpr(jaxpr, wanted)[1]
