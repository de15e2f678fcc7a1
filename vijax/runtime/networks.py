"""Modules of `flax.nnx` as pure functions: their weights, and what they say of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from vijax.runtime.errors import GuideError, mismatch

PyTree = Any
Make = Callable[[Any], Any]  # from `nnx.Rngs` to an `nnx.Module`


def start(make: Make, key: Array, option: str) -> PyTree:
    """Weights at random, as the module makes them.

    Args:
        make: what makes it.
        key: randomness.
        option: by which the user named it.

    Raises:
        GuideError: the module has state of other kinds.
    """
    from flax import nnx

    module = make(nnx.Rngs(key))
    weights, rest = nnx.state(module, nnx.Param), nnx.state(module, nnx.Not(nnx.Param))
    if jax.tree.leaves(rest):
        others = list(nnx.to_pure_dict(rest))
        raise GuideError(mismatch(option, "no state but nnx.Param", f"some in {others}"))
    return nnx.to_pure_dict(weights)


def applied(make: Make, weights: PyTree, *inputs: Array) -> Array:
    """What the module with these weights says of inputs."""
    from flax import nnx

    structure, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(structure, state)(*inputs)
