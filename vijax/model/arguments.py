"""Splits a call's arguments into traced arrays and static Python values, and names each leaf."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from vijax._errors import ModelError
from vijax._identity import fingerprint

_HOLE = object()  # where a traced array was taken out


@dataclasses.dataclass(frozen=True, eq=False)
class Arguments:
    """The static part of a call `model(*args, **kwargs)`; `join` puts the arrays back.

    Attributes:
        leaves: static leaves, with holes where the arrays were.
        names: name of the array that fills each hole, `""` for a static leaf.
        treedef: the structure of `(args, kwargs)`.
        avals: shape and dtype of every array, by name.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    treedef: Any
    avals: dict[str, tuple[tuple[int, ...], str]]

    def join(self, data: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with the arrays of `data` in their places."""
        filled = [
            data[name] if name else leaf for leaf, name in zip(self.leaves, self.names, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, filled)

    @functools.cached_property
    def lookup(self) -> Hashable:
        """Equal for calls that trace alike: same structure, static values, shapes and dtypes."""
        static = tuple(
            name or fingerprint(leaf) for leaf, name in zip(self.leaves, self.names, strict=True)
        )
        return static, self.treedef, tuple(sorted(self.avals.items()))


def unwrap(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Takes `functools.partial` apart, so that what it holds is treated as arguments."""
    while isinstance(model, functools.partial):
        args, kwargs = (*model.args, *args), {**model.keywords, **kwargs}
        model = model.func
    if not callable(model):
        raise TypeError(
            f"model: expected a NumPyro model function, got {type(model).__name__}. "
            "Pass the function itself and its arguments after it: fit(model, x, y=y)."
        )
    return model, args, kwargs


def split(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Arguments, dict[str, jax.Array]]:
    """Separates the arrays in `args` and `kwargs` from everything static.

    NumPy and JAX arrays (and pandas or polars columns) are traced; Python and NumPy scalars,
    strings, `None` and any other object are static. A NumPy integer such as `index.max() + 1`
    counts as a Python one, so that it may size a plate.

    Raises:
        TypeError: the call does not match the model's signature, an array is not numeric, or a
            table was passed whole.
    """
    prefixes = _parameter_names(model, args, kwargs)
    flat, treedef = jax.tree.flatten_with_path((args, kwargs))
    leaves: list[Any] = []
    names: list[str] = []
    data: dict[str, jax.Array] = {}
    for path, leaf in flat:
        name = prefixes[_position(path)] + jax.tree_util.keystr(path[2:])
        value = _classify(name, leaf)
        if isinstance(value, (np.ndarray, jax.Array)):
            data[name] = _on_device(value)
            leaves.append(_HOLE)
            names.append(name)
        else:
            leaves.append(value)
            names.append("")
    avals = {name: (tuple(value.shape), str(value.dtype)) for name, value in data.items()}
    return Arguments(tuple(leaves), tuple(names), treedef, avals), data


def _on_device(value: np.ndarray | jax.Array) -> jax.Array:
    return value if isinstance(value, jax.Array) else jax.device_put(value)


def _position(path: tuple[Any, ...]) -> int | str:
    """The positional index or keyword that a leaf belongs to."""
    part, entry = path[0].idx, path[1]
    return entry.idx if part == 0 else entry.key


def _parameter_names(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[int | str, str]:
    """Argument position or keyword to the name in the model's signature."""
    names: dict[int | str, str] = {key: str(key) for key in kwargs}
    names |= {i: f"args[{i}]" for i in range(len(args))}
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # a callable without a signature
        return names
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        label = getattr(model, "__name__", type(model).__name__)
        raise ModelError(
            f"model arguments: {error}. Expected {label}{signature}, got {len(args)} positional "
            f"and the keywords {sorted(kwargs)}. Options of fit() and arguments of the model are "
            "told apart by name; model_kwargs={...} passes a clashing one to the model."
        ) from None
    for i, parameter in enumerate(signature.parameters.values()):
        if i >= len(args) or parameter.kind is parameter.VAR_POSITIONAL:
            break
        names[i] = parameter.name
    return names


def _classify(name: str, leaf: Any) -> Any:
    """The leaf as an array if it is one, else as a static value."""
    if isinstance(leaf, np.generic):
        return leaf.item()
    if isinstance(leaf, np.ndarray) or (not isinstance(leaf, jax.Array) and _is_column(leaf)):
        array = np.asarray(leaf)
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise ModelError(
                f"argument {name!r}: expected a numeric array, got dtype {array.dtype}. "
                "Convert it to numbers first (categories to integer codes, say)."
            )
        return array
    if hasattr(leaf, "columns") and hasattr(leaf, "shape"):
        raise ModelError(
            f"argument {name!r}: expected arrays, got a table ({type(leaf).__name__}). "
            "Pass its columns as arrays, or a dict of arrays."
        )
    return leaf


def _is_column(leaf: Any) -> bool:
    """A pandas or polars column, or another one-dimensional container of numbers."""
    return hasattr(leaf, "__array__") and hasattr(leaf, "dtype") and not hasattr(leaf, "columns")
