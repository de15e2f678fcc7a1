"""Which outputs of a function depend on its first argument, found without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from vijax.contracts import PyTree


def dependent(function: Callable[..., PyTree], source: PyTree, *rest: Any) -> PyTree:
    """Whether each leaf of `function(source, *rest)` may depend on `source`, a tree of bools.

    Walks the jaxpr once; an inner program counts as depending on all of its inputs, so the answer
    errs towards True. Arguments may be abstract.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(source, *rest)
    jaxpr = closed.jaxpr
    reached = {id(var) for var in jaxpr.invars[: len(jax.tree.leaves(source))]}
    for equation in jaxpr.eqns:
        if any(id(var) in reached for var in equation.invars):
            reached.update(id(var) for var in equation.outvars)
    flags = [id(var) in reached for var in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(shape), flags)
