"""The precision of matrix products and convolutions: float32 on every device, or bfloat16.

Products take most of the time of a network, and accelerators gain most from lower precision there.
All else keeps its precision: parameters and their gradients, sums, exponentials, log densities of
distributions. bfloat16 has the exponent range of float32, so that no loss scaling is needed.
Sources: Mixed Precision Training, Micikevicius et al., 2018; A Study of BFLOAT16 for Deep Learning
Training, Kalamkar et al., 2019.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from vijax.runtime.jaxpr import execute, num_consts_and_carry

PRECISIONS = ("bfloat16",)  # float16 would need loss scaling
_FULL = "vijax.full_precision"
_PRODUCTS = ("dot_general", "conv_general_dilated")
_CALLS = ("jit", "pjit", "closed_call", "core_call")


def check_precision(precision: str | None) -> None:
    """Checks the option `precision`.

    Raises:
        ValueError: it is neither `None` nor one of `PRECISIONS`.
    """
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision: expected None or one of {PRECISIONS}, got {precision!r}.")


def full_precision() -> contextlib.AbstractContextManager[Any]:
    """Marks operations traced inside, which `mixed_precision` leaves in full precision."""
    return jax.named_scope(_FULL)


def float32_products() -> contextlib.AbstractContextManager[Any]:
    """Traces matrix products and convolutions in full float32 precision on accelerators, too.

    JAX rounds their operands by default to TF32 on recent NVIDIA GPUs and to bfloat16 on TPUs, with
    relative errors of 5e-4 and 4e-3. Line searches and log weights rely on log densities that are
    accurate to float32. A precision that the user has set, `jax.default_matmul_precision`, is kept,
    and programs for CPUs are unchanged.
    """
    chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # made by JAX
    if chosen is not None or jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")


def mixed_precision(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """A function with its matrix products and their gradients in a lower precision.

    Operands are rounded, results are converted back to their original precision. Applies
    recursively to inner programs, except those with custom derivatives and loops of unknown length.

    Args:
        function: from pytrees of arrays to a pytree of arrays.
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
    if _FULL in str(equation.source_info.name_stack):
        return execute(jaxpr, equation, values)
    if name in _PRODUCTS and all(_is_wider(atom.aval.dtype, dtype) for atom in equation.invars):
        rounded = [lax.convert_element_type(operand, dtype) for operand in values]
        product = equation.primitive.bind(*rounded, **params | {"preferred_element_type": dtype})
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
        inner = _function(params["jaxpr"], (), dtype)
        options = {option: params[option] for option in ("prevent_cse", "policy")}
        return jax.checkpoint(inner, **options)(*values)
    return execute(jaxpr, equation, values)


def _scan(equation: Any, values: list[Any], dtype: Any) -> list[Any]:
    params, (num_consts, num_carry) = equation.params, num_consts_and_carry(equation)
    body, consts, rest = params["jaxpr"], values[:num_consts], values[num_consts:]

    def step(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        out = _evaluate(body.jaxpr, body.consts, [*consts, *carry, *x], dtype)
        return out[:num_carry], out[num_carry:]

    options = {option: params[option] for option in ("length", "reverse", "unroll")}
    carry, stacked = lax.scan(step, rest[:num_carry], rest[num_carry:], **options)
    return [*carry, *stacked]


def _function(jaxpr: Any, consts: Sequence[Any], dtype: Any) -> Callable[..., list[Any]]:
    return lambda *values: _evaluate(jaxpr, consts, values, dtype)


def _is_wider(given: Any, dtype: Any) -> bool:
    return jnp.issubdtype(given, jnp.floating) and given.itemsize > dtype.itemsize
