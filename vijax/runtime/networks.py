"""Modules of `flax.nnx` as pure functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from vijax.runtime.errors import GuideError, mismatch

PyTree = Any
ModuleFactory = Callable[[Any], Any]  # from `nnx.Rngs` to an `nnx.Module`


def init(factory: ModuleFactory, key: Array, option: str) -> PyTree:
    """Randomly initialized parameters of a module.

    Args:
        factory: constructs the module.
        key: randomness.
        option: name of the user's option, for errors.

    Raises:
        GuideError: the module has state other than parameters.
    """
    from flax import nnx

    module = factory(nnx.Rngs(key))
    params, rest = nnx.state(module, nnx.Param), nnx.state(module, nnx.Not(nnx.Param))
    if jax.tree.leaves(rest):
        others = list(nnx.to_pure_dict(rest))
        raise GuideError(mismatch(option, "no state but nnx.Param", f"some in {others}"))
    return nnx.to_pure_dict(params)


def apply(factory: ModuleFactory, params: PyTree, *inputs: Array) -> Array:
    """The output of the module with these parameters."""
    from flax import nnx

    structure, state = nnx.split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))), nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(structure, state)(*inputs)
