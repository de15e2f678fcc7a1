"""The parts of a `flax.nnx` module: what it is, its weights, and its other state."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

ModuleFactory = Callable[[Any], Any]  # from `nnx.Rngs` to an `nnx.Module`
Path = tuple[Any, ...]


def path_name(path: Path) -> str:
    """A path in words: `dense_0/kernel`."""
    return "/".join(map(str, path))


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A weight: an `nnx.Param`.

    Attributes:
        path: in the module.
        shape: of its value.
        fan_in: number of inputs of each output of its layer.
    """

    path: Path
    shape: tuple[int, ...]
    fan_in: int

    @property
    def name(self) -> str:
        """The path in words: `dense_0/kernel`."""
        return path_name(self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A module without its numbers.

    Attributes:
        factory: constructs it.
        graph: how its parts are connected.
        params: abstract weights by path.
        state: abstract state that is neither a weight nor a random key, such as running means.
        random: abstract random keys and counters.
        leaves: its weights, in order.
    """

    factory: ModuleFactory
    graph: Any
    params: dict[Path, Any]
    state: dict[Path, Any]
    random: dict[Path, Any]
    leaves: tuple[Leaf, ...]

    @property
    def has_batch_statistics(self) -> bool:
        """Whether there are running means of batches."""
        return any(isinstance(one, nnx.BatchStat) for one in self.state.values())

    def initial(self, key: jax.Array) -> dict[Path, jax.Array]:
        """The module's own initial weights."""
        state = nnx.state(self.factory(nnx.Rngs(key)), nnx.Param)
        return {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}

    @functools.cached_property
    def initial_state(self) -> dict[Path, Any]:
        """Initial values of its state, by path."""
        with jax.ensure_compile_time_eval():
            state = nnx.state(self.factory(nnx.Rngs(0)), nnx.Not(nnx.Param))
        return {
            path: variable.get_value()
            for path, variable in nnx.to_flat_state(state)
            if path in self.state
        }

    def module(
        self, params: Mapping[Path, Any], state: Mapping[Path, Any], key: jax.Array | None
    ) -> Any:
        """The module with these numbers.

        Args:
            params: weights by path.
            state: other state by path.
            key: of its random numbers, `None` if it has none.
        """
        values = {**params, **state, **self._random(key)}
        abstract = {**self.params, **self.state, **self.random}
        flat = [(path, abstract[path].replace(value)) for path, value in values.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def _random(self, key: jax.Array | None) -> dict[Path, Any]:
        found: dict[Path, Any] = {}
        if key is None:
            return found
        for i, (path, variable) in enumerate(self.random.items()):
            is_key = jnp.issubdtype(variable.dtype, jax.dtypes.prng_key)
            number = jnp.zeros(variable.shape, variable.dtype) if not is_key else None
            found[path] = jax.random.fold_in(key, i) if number is None else number
        return found

    def state_of(self, module: Any) -> dict[Path, Any]:
        """The state of a module after calls."""
        flat = dict(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param))))
        return {path: jax.lax.stop_gradient(flat[path].get_value()) for path in self.state}


@functools.lru_cache(maxsize=32)
def structure_of(factory: ModuleFactory) -> Structure:
    """The structure of the module that a factory constructs.

    Raises:
        TypeError: it constructs something else.
    """
    module = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    if not isinstance(module, nnx.Module):
        raise TypeError(f"expected a function from nnx.Rngs to an nnx.Module, got {module!r}.")
    graph, state = nnx.split(module)
    flat = dict(nnx.to_flat_state(state))
    params = {path: v for path, v in flat.items() if isinstance(v, nnx.Param)}
    random = {path: v for path, v in flat.items() if isinstance(v, nnx.RngState)}
    others = {path: v for path, v in flat.items() if path not in params and path not in random}
    layers = dict(nnx.iter_modules(module))
    leaves = tuple(
        Leaf(path, v.shape, _fan_in(layers.get(path[:-1]), path, v.shape))
        for path, v in params.items()
    )
    return Structure(factory, graph, params, others, random, leaves)


def _fan_in(layer: Any, path: Path, shape: tuple[int, ...]) -> int:
    """Number of inputs of each output of a layer."""
    if isinstance(layer, nnx.Embed):
        return layer.features  # as its own initial values
    kernel = shape if path[-1] == "kernel" else getattr(layer, "kernel", None)
    kernel_shape = kernel if isinstance(kernel, tuple) else getattr(kernel, "shape", None)
    if kernel_shape is None:
        return 1
    out = getattr(layer, "out_features", kernel_shape[-1])
    if isinstance(layer, nnx.Einsum):
        out = kernel_shape[-1]
    return max(math.prod(kernel_shape) // math.prod(out if isinstance(out, tuple) else (out,)), 1)
