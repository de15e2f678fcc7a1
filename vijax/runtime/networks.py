"""Modules of `flax.nnx` as pure functions of their parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from vijax.runtime.errors import GuideError, mismatch

PyTree = Any
ModuleFactory = Callable[[Any], Any]  # from `nnx.Rngs` to an `nnx.Module`


class WithStatistics(NamedTuple):
    """The parameters of a module with running statistics of batches, such as `nnx.BatchNorm`.

    Attributes:
        params: its weights.
        statistics: running means and variances, which have no gradient.
    """

    params: PyTree
    statistics: PyTree


def init(factory: ModuleFactory, key: Array, option: str, stateful: bool = False) -> PyTree:
    """Randomly initialized parameters of a module, `WithStatistics` if it has any.

    Args:
        factory: constructs the module.
        key: randomness.
        option: name of the user's option, for errors.
        stateful: whether it may have running statistics of batches, and dropout.

    Raises:
        GuideError: the module has other state than that.
    """
    from flax import nnx

    module = factory(nnx.Rngs(key))
    kinds = (nnx.Param, nnx.BatchStat, nnx.RngState) if stateful else (nnx.Param,)
    rest = nnx.state(module, nnx.Not(kinds))
    if jax.tree.leaves(rest):
        others = list(nnx.to_pure_dict(rest))
        allowed = "nnx.Param, nnx.BatchStat and dropout" if stateful else "nnx.Param"
        raise GuideError(mismatch(option, f"no state but {allowed}", f"some in {others}"))
    found = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    statistics = nnx.state(module, nnx.BatchStat)
    if not jax.tree.leaves(statistics):
        return found
    return WithStatistics(found, nnx.to_pure_dict(statistics))


@functools.lru_cache(maxsize=32)
def has_statistics(factory: ModuleFactory) -> bool:
    """Whether the module has running statistics of batches."""
    from flax import nnx

    abstract = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    return bool(jax.tree.leaves(nnx.state(abstract, nnx.BatchStat)))


def apply(
    factory: ModuleFactory, params: PyTree, *inputs: Array, training: Array | None = None
) -> Array:
    """The output of the module with these parameters.

    Args:
        factory: constructs the module.
        params: as `init` returns them.
        *inputs: the module's arguments.
        training: a key with which dropout is on and statistics are those of the inputs; `None` for
            evaluation.
    """
    return _module(factory, params, training)(*inputs)


def with_statistics(
    factory: ModuleFactory, params: WithStatistics, *inputs: Array, training: Array
) -> PyTree:
    """The running statistics after a call in training."""
    from flax import nnx

    module = _module(factory, params, training)
    module(*inputs)
    return jax.lax.stop_gradient(nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))


def _module(factory: ModuleFactory, params: PyTree, training: Array | None) -> Any:
    """The module with these parameters, in training or in evaluation."""
    from flax import nnx

    abstract = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    structure, *states = nnx.split(abstract, nnx.Param, nnx.BatchStat, nnx.RngState)
    weights, statistics, random = states
    if isinstance(params, WithStatistics):
        nnx.replace_by_pure_dict(statistics, jax.lax.stop_gradient(params.statistics))
        params = params.params
    nnx.replace_by_pure_dict(weights, params)
    key = jax.random.key(0) if training is None else training
    flat = []
    for number, (path, variable) in enumerate(nnx.to_flat_state(random)):
        is_key = jax.numpy.issubdtype(variable.dtype, jax.dtypes.prng_key)
        zeros = jax.numpy.zeros(variable.shape, None if is_key else variable.dtype)
        flat.append((path, variable.replace(jax.random.fold_in(key, number) if is_key else zeros)))
    module = nnx.merge(structure, weights, statistics, nnx.from_flat_state(flat))
    if training is None:
        module.eval()
    else:
        module.train()
    return module
