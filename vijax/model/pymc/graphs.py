"""Parts of a PyTensor graph as JAX functions."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.scalar.math import Erfcx
from pytensor.tensor.random.type import RandomType

Function = Callable[..., list[Any]]


@contextlib.contextmanager
def _jax_as_it_was() -> Iterator[None]:
    """PyTensor's import switches JAX to 64 bits, PyMC's asks for 100 devices of the host."""
    x64, flags = jax.config.read("jax_enable_x64"), os.environ.get("XLA_FLAGS")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", x64)
        if flags is None:
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = flags


with _jax_as_it_was():
    import pymc.sampling.jax  # noqa: F401 - its operations in JAX
    from pytensor.compile.mode import JAX
    from pytensor.link.jax.dispatch import jax_funcify


@jax_funcify.register(Erfcx)
def _erfcx(op: Any, **kwargs: Any) -> Callable[..., Any]:
    """Of normal distribution functions; PyTensor needs another library for it."""
    return jax.scipy.special.erfcx


@contextlib.contextmanager
def _without_truncation_warnings() -> Iterator[None]:
    """PyTensor asks for 64 bits by name, which JAX rounds to those in use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types")
        yield


def replaced(outputs: Sequence[Variable], inputs: dict[Variable, Variable]) -> list[Variable]:
    """The graph of `outputs` with some of its variables replaced."""
    return clone_replace(list(outputs), replace=list(inputs.items()), rebuild_strict=False)


def is_rng(variable: Variable) -> bool:
    """Whether a variable is a random number generator."""
    return isinstance(variable.type, RandomType)


def rngs(outputs: Sequence[Variable]) -> list[Variable]:
    """The random number generators that outputs depend on."""
    return [variable for variable in graph_inputs(outputs) if is_rng(variable)]


def jax_function(inputs: Sequence[Variable], outputs: Sequence[Variable]) -> Function:
    """`outputs` as a JAX function of `inputs`, with PyTensor's numerically stable rewrites.

    Shared variables that are not inputs have the values that they have now.

    Raises:
        NotImplementedError: JAX lacks an operation.
    """
    known = set(inputs)
    constants = {
        variable: pt.constant(variable.get_value(borrow=True))
        for variable in graph_inputs(outputs)
        if isinstance(variable, SharedVariable) and variable not in known and not is_rng(variable)
    }
    graph = FunctionGraph(inputs=list(inputs), outputs=replaced(outputs, constants), clone=True)
    with _without_truncation_warnings():
        JAX.optimizer.rewrite(graph)
        function = jax_funcify(graph)

    def run(*values: Any) -> list[Any]:
        with _without_truncation_warnings():
            return list(function(*values))

    return run
