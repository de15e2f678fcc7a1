"""Mixed precision: programs whose matrix products and convolutions are taken in bfloat16.

Those are where a network spends its time, and where accelerators gain most by shorter numbers.
Everything else stays as it was: parameters and their gradients, sums, exponentials, distributions'
log densities. bfloat16 has the exponents of float32, so that no loss has to be scaled. Sources:
Mixed Precision Training, Micikevicius et al., 2018; A Study of BFLOAT16 for Deep Learning Training,
Kalamkar et al., 2019.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from vijax.runtime.jaxpr import num_consts_and_carry

PRECISIONS = ("bfloat16",)  # float16 would need losses to be scaled
_EXACT = "vijax.exact"
_PRODUCTS = ("dot_general", "conv_general_dilated")
_CALLS = ("jit", "pjit", "closed_call", "core_call")


def check_precision(precision: str | None) -> None:
    """Refuses what is neither `None` nor one of `PRECISIONS`.

    Raises:
        ValueError: naming the option.
    """
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision: expected None or one of {PRECISIONS}, got {precision!r}.")


def full_precision() -> contextlib.AbstractContextManager[Any]:
    """What is traced inside keeps its precision; nothing else depends on it."""
    return jax.named_scope(_EXACT)


def mixed_precision(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """The same function with its products in a lower precision, gradients through them included.

    Their operands are rounded, their results are given back in the precision that they had.
    Programs inside of it are followed, but for those with a derivative of their own and loops of
    unknown length.

    Args:
        function: of pytrees of arrays, to such a pytree.
        precision: one of `PRECISIONS`.
    """
    dtype = jnp.dtype(precision)

    def run(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        out = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), dtype)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], dtype: Any) -> list[Any]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        outputs = _applied(jaxpr, equation, [value(atom) for atom in equation.invars], dtype)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _applied(jaxpr: Any, equation: Any, values: list[Any], dtype: Any) -> Sequence[Any]:
    """The values of an equation's outputs."""
    name, params = equation.primitive.name, equation.params
    if _EXACT in str(equation.source_info.name_stack):
        return _unchanged(jaxpr, equation, values)
    if name in _PRODUCTS and all(_is_wider(atom.aval.dtype, dtype) for atom in equation.invars):
        short = [lax.convert_element_type(operand, dtype) for operand in values]
        product = equation.primitive.bind(*short, **params | {"preferred_element_type": dtype})
        return [lax.convert_element_type(product, equation.outvars[0].aval.dtype)]
    if name in _CALLS:
        inner = params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, values, dtype)
    if name == "scan":
        return _scan(equation, values, dtype)
    if name == "cond":
        branches = [_function(branch.jaxpr, branch.consts, dtype) for branch in params["branches"]]
        return lax.switch(values[0], branches, *values[1:])
    if name in ("remat2", "checkpoint"):
        again = _function(params["jaxpr"], (), dtype)
        options = {option: params[option] for option in ("prevent_cse", "policy")}
        return jax.checkpoint(again, **options)(*values)
    return _unchanged(jaxpr, equation, values)


def _unchanged(jaxpr: Any, equation: Any, values: list[Any]) -> Sequence[Any]:
    """The outputs of an equation as it is: a program of nothing else, whatever its kind."""
    pairs = zip(equation.invars, values, strict=True)
    given = {atom: value for atom, value in pairs if not isinstance(atom, core.Literal)}
    alone = jaxpr.replace(constvars=[], invars=[*given], outvars=equation.outvars, eqns=[equation])
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*given.values())


def _scan(equation: Any, values: list[Any], dtype: Any) -> list[Any]:
    params, (start, length) = equation.params, num_consts_and_carry(equation)
    body, fixed, moving = params["jaxpr"], values[:start], values[start:]

    def step(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        out = _evaluate(body.jaxpr, body.consts, [*fixed, *carry, *x], dtype)
        return out[:length], out[length:]

    options = {option: params[option] for option in ("length", "reverse", "unroll")}
    carry, stacked = lax.scan(step, moving[:length], moving[length:], **options)
    return [*carry, *stacked]


def _function(jaxpr: Any, consts: Sequence[Any], dtype: Any) -> Callable[..., list[Any]]:
    return lambda *values: _evaluate(jaxpr, consts, values, dtype)


def _is_wider(own: Any, dtype: Any) -> bool:
    return jnp.issubdtype(own, jnp.floating) and own.itemsize > dtype.itemsize
