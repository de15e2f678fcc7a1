"""Splits a call's arguments into traced arrays and static Python values, and names each leaf."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import RowSource
from vijax.model.tracing.frames import encode_arguments, frames
from vijax.model.tracing.rounding import rounding_warnings
from vijax.runtime.columns import Columns, Labels
from vijax.runtime.encoding import Known, column_label
from vijax.runtime.errors import ArgumentError
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.keywords import did_you_mean

_HOLE = object()  # in place of a traced array
_LONG_DOUBLE = {np.dtype("g").name: np.dtype("d"), np.dtype("G").name: np.dtype("D")}

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Arguments:
    """The static part of a call `model(*args, **kwargs)`; `join` adds the arrays.

    Attributes:
        leaves: static leaves, with `_HOLE` in place of traced arrays. Arrays among them are static
            by content: other values are another model.
        names: names of all leaves.
        treedef: the structure of `(args, kwargs)`.
        avals: shape and dtype of every array, by name.
        sources: the arrays that are read in blocks of rows, by name.
        data_warnings: what the precision of the device loses of the data, in words.
        coords: labels of the elements along dimensions of the model, by dimension.
        levels: labels of categorical columns, by name of their codes.
        new_levels: the labels among them that the fit did not have, at new inputs.
        bound: positional and keyword arguments that `functools.partial` set; see `complete`.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    treedef: Any
    avals: dict[str, tuple[tuple[int, ...], Any]]
    sources: dict[str, RowSource] = dataclasses.field(default_factory=dict)
    data_warnings: tuple[str, ...] = ()
    coords: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    levels: dict[str, Labels] = dataclasses.field(default_factory=dict)
    new_levels: dict[str, Labels] = dataclasses.field(default_factory=dict)
    bound: Call = ((), {})

    def complete(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The arguments of a call at other inputs, with those that `functools.partial` set."""
        if not args and not kwargs:
            return args, kwargs
        return (*self.bound[0], *args), {**self.bound[1], **kwargs}

    def join(self, data: dict[str, Any]) -> Call:
        """`(args, kwargs)` with the arrays of `data`."""
        filled = [
            data[name] if leaf is _HOLE else leaf
            for leaf, name in zip(self.leaves, self.names, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, filled)

    def placeholder(self, name: str) -> Any:
        """Zeros that take no memory, for an array that is missing and not used."""
        shape, dtype = self.avals[name]
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), shape)
        return np.broadcast_to(np.zeros((), dtype), shape)

    def abstract(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the arrays, by name."""
        return {
            name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in self.avals.items()
        }

    def static(self) -> dict[str, Any]:
        """Everything that is not an array, by name."""
        pairs = zip(self.names, self.leaves, strict=True)
        return {name: leaf for name, leaf in pairs if leaf is not _HOLE}

    @property
    def by_content(self) -> frozenset[str]:
        """The arrays that are static, so that the model can read their values."""
        return frozenset(n for n, leaf in self.static().items() if isinstance(leaf, np.ndarray))

    def known(self, may_grow: bool) -> dict[str, Known]:
        """What a fit with these arguments knows of columns of labels and of numbers."""
        numbers = {*self.avals, *self.by_content}
        known = {one.label: Known(frame=True) for one in self._frames()}
        known |= {name: Known(None, True, may_grow) for name in numbers}
        return known | {name: Known(one, False, may_grow) for name, one in self.levels.items()}

    @property
    def frame_columns(self) -> frozenset[str]:
        """The arrays that are columns of data frames."""
        return frozenset(column_label(one.label, x) for one in self._frames() for x in one.arrays)

    @property
    def problems(self) -> dict[str, str]:
        """Why columns of data frames cannot be read, by name."""
        frames = self._frames()
        return {column_label(one.label, x): y for one in frames for x, y in one.problems.items()}

    def _frames(self) -> list[Columns]:
        return frames(self.join(self.abstract()))

    @property
    def grown(self) -> frozenset[tuple[int, int]]:
        """The number of labels in the fit and now, of columns that have new ones."""
        sizes = {name: len(labels) for name, labels in self.levels.items()}
        return frozenset((sizes[n] - len(new), sizes[n]) for n, new in self.new_levels.items())

    @functools.cached_property
    def lookup(self) -> Hashable:
        """A cache key, equal for calls with equal structure, static values, shapes and dtypes."""
        # what functions and classes refer to is in the digest of the trace
        static = tuple(
            name if leaf is _HOLE else fingerprint(leaf, opaque_by_identity=callable(leaf))
            for leaf, name in zip(self.leaves, self.names, strict=True)
        )
        avals = ((name, shape, str(dtype)) for name, (shape, dtype) in self.avals.items())
        return static, _treedef_lookup(self.treedef), tuple(sorted(avals))


def _treedef_lookup(treedef: Any) -> Hashable:
    """The structure itself, or a unique value if the metadata of a node is not hashable."""
    try:
        hash(treedef)
    except TypeError:
        return fingerprint(object())
    return treedef


def bound_arguments(model: Callable[..., Any]) -> Call:
    """The arguments that `functools.partial` set."""
    return unwrap(model, (), {})[1:]


def unwrap(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Unwraps `functools.partial`, so that its arguments are treated as those of the call.

    Raises:
        ArgumentError: the model cannot be called.
    """
    while isinstance(model, functools.partial):
        args, kwargs = (*model.args, *args), {**model.keywords, **kwargs}
        model = model.func
    if not callable(model):
        raise ArgumentError(
            f"model: expected a NumPyro model function, got {type(model).__name__}. "
            "Pass the function itself and its arguments after it: fit(model, x, y=y)."
        )
    return model, args, kwargs


def split(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    keep_sources: bool = False,
    by_content: frozenset[str] = frozenset(),
    known: Mapping[str, Known] = types.MappingProxyType({}),
    on_device: bool = True,
) -> tuple[Arguments, dict[str, Array]]:
    """Separates the arrays in `args` and `kwargs` from static values.

    Data frames become `Columns`, columns of labels integer codes. NumPy and JAX arrays (and pandas
    or polars columns) are traced; Python and NumPy scalars,
    strings, `None` and any other object are static. A NumPy integer such as `index.max() + 1`
    becomes a Python one and can be the size of a plate. A `jax.ShapeDtypeStruct` represents a
    missing array: it is in the `Arguments` but not in the data.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        keep_sources: whether to treat a `RowSource` likewise, instead of reading it into memory.
        by_content: names of arrays that are static, see `Arguments.by_content`.
        known: at new inputs what the fit knows of its columns, see `Arguments.known`.
        on_device: whether to transfer arrays; if not, they are host arrays of the same types.

    Returns:
        The static part, and the arrays by name.

    Raises:
        ArgumentError: the call does not match the model's signature, an array is not numeric or
            does not fit the default precision.
    """
    prefixes = _parameter_names(model, args, kwargs)
    name_of = functools.partial(_leaf_name, prefixes)
    (args, kwargs), levels = encode_arguments((args, kwargs), name_of, known)
    flat, treedef = jax.tree.flatten_with_path((args, kwargs))
    leaves: list[Any] = []
    names: list[str] = []
    data: dict[str, Any] = {}
    avals: dict[str, tuple[tuple[int, ...], Any]] = {}
    sources: dict[str, RowSource] = {}
    data_warnings: tuple[str, ...] = ()
    for path, leaf in flat:
        name = name_of(path)
        while name in avals:  # f(x, /, **kwargs) may be called with another x
            name += "'"
        if isinstance(leaf, RowSource) and keep_sources:
            sources[name] = leaf
            data_warnings += rounding_warnings(name, leaf)
            leaf = jax.ShapeDtypeStruct(leaf.shape, device_dtype(leaf.dtype))
        value = _classify(name, leaf)
        names.append(name)
        if name in by_content and isinstance(value, (np.ndarray, Array)):
            leaves.append(np.array(value))  # NumPy computes on it while the model is traced
            continue
        if isinstance(value, np.ndarray):
            data_warnings += rounding_warnings(name, value)
        if isinstance(value, (np.ndarray, Array)):
            moved: Any = (_on_device if on_device else _on_host)(name, value)
            value = data[name] = moved
        if isinstance(value, (Array, np.ndarray, jax.ShapeDtypeStruct)):
            avals[name] = tuple(value.shape), value.dtype
            value = _HOLE
        leaves.append(value)
    found = Arguments(tuple(leaves), tuple(names), treedef, avals, sources, data_warnings)
    counts = {name: len(one.labels) for name, one in known.items() if one.labels is not None}
    added = {name: labels[counts[name] :] for name, labels in levels.items() if name in counts}
    added = {name: labels for name, labels in added.items() if labels}
    return dataclasses.replace(found, levels=levels, new_levels=added), data


def _leaf_name(prefixes: dict[int | str, str], path: tuple[Any, ...]) -> str:
    """The name of a leaf: of the parameter, and its place inside."""
    return prefixes[_position(path)] + jax.tree_util.keystr(path[2:])


def _on_device(name: str, value: np.ndarray | Array) -> Array:
    if isinstance(value, Array):
        weak = getattr(value, "weak_type", False)  # would be compiled separately
        return jax.lax.convert_element_type(value, value.dtype) if weak else value
    check_range(name, value)
    return jax.device_put(value)


def _on_host(name: str, value: np.ndarray | Array) -> np.ndarray:
    array = np.asarray(value)
    check_range(name, array)
    return array.astype(device_dtype(array.dtype), copy=False)


def check_range(name: str, value: np.ndarray) -> None:
    """Refuses numbers that would silently overflow in the precision of the device."""
    dtype = device_dtype(value.dtype)
    if dtype == value.dtype or value.size == 0 or value.dtype.kind not in "iuf":
        return
    limits = np.finfo(dtype) if value.dtype.kind == "f" else np.iinfo(dtype)
    for extreme in (np.fmin.reduce(value, axis=None), np.fmax.reduce(value, axis=None)):
        if np.isfinite(extreme) and not limits.min <= extreme <= limits.max:
            where = [int(i) for i in np.argwhere(value == extreme)[0]]
            raise ArgumentError(
                f"argument {name!r}: expected numbers within {dtype} (up to {limits.max:.4g}), "
                f"got {extreme} at index {where}. Rescale or recode it, or switch on double "
                'precision: jax.config.update("jax_enable_x64", True).'
            )


def _position(path: tuple[Any, ...]) -> int | str:
    """The positional index or keyword that a leaf belongs to."""
    part, entry = path[0].idx, path[1]
    return entry.idx if part == 0 else entry.key


def _parameter_names(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[int | str, str]:
    """The name in the model's signature, by argument position or keyword."""
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
        raise ArgumentError(
            f"model arguments: {error}. Expected {label}{signature}, got {len(args)} positional "
            f"and the keywords {sorted(kwargs)}.{_suggestion(signature, kwargs)}"
        ) from None
    for i, parameter in enumerate(signature.parameters.values()):
        if i >= len(args) or parameter.kind is parameter.VAR_POSITIONAL:
            break
        names[i] = parameter.name
    return names


def _suggestion(signature: inspect.Signature, kwargs: dict[str, Any]) -> str:
    """A suggestion for an unknown keyword."""
    for keyword in kwargs:
        if keyword not in signature.parameters:
            return (
                f"{did_you_mean(keyword, signature.parameters)} Options of fit() and arguments of "
                "the model are distinguished by name; "
                "model_kwargs={...} passes a clashing one to the model."
            )
    return ""


def _classify(name: str, leaf: Any) -> Any:
    """The leaf as an array if it is one, else as a static value."""
    if isinstance(leaf, np.generic):
        value = leaf.item()
        return leaf.astype(_native(leaf.dtype)).item() if isinstance(value, np.generic) else value
    if isinstance(leaf, Array):
        return leaf
    if hasattr(leaf, "data_vars") and not callable(leaf):  # xarray
        raise ArgumentError(
            f"argument {name!r}: expected arrays, got a {type(leaf).__name__}. Pass its variables "
            "as a dict of arrays."
        )
    if hasattr(leaf, "tocsr"):
        raise ArgumentError(
            f"argument {name!r}: expected a dense array, got a sparse {type(leaf).__name__}. "
            "Pass .toarray(), or its rows, columns and values as three arrays."
        )
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        raise ArgumentError(
            f"argument {name!r}: expected a plain array, got a masked one, whose mask would be "
            "lost. Pass values.filled(0.0) and ~values.mask, and use obs_mask= in the model."
        )
    if not isinstance(leaf, np.ndarray) and not _is_column(leaf):
        return leaf
    return _numeric(name, np.asarray(leaf))


def _numeric(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise ArgumentError(
            f"argument {name!r}: expected a numeric array, got dtype {array.dtype}. "
            "Convert it to numbers first, for example categories to integer codes."
        )
    return array.astype(_native(array.dtype), copy=False)


def _native(dtype: np.dtype) -> np.dtype:
    """The dtype in the byte order of this machine; double precision for long double."""
    return _LONG_DOUBLE.get(dtype.name, dtype.newbyteorder("="))


def device_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that numbers have on the device."""
    return jax.dtypes.canonicalize_dtype(_native(dtype))


def _is_column(leaf: Any) -> bool:
    """A pandas or polars column, a tensor, or another container of numbers."""
    return hasattr(leaf, "__array__") and hasattr(leaf, "dtype")


@dataclasses.dataclass(frozen=True)
class ModelCall:
    """A model with its static arguments, of a program that runs it; equality is that of `lookup`.

    Attributes:
        lookup: equal for models with equal programs.
        model: the model function.
        arguments: its static arguments.
    """

    lookup: Hashable
    model: Callable[..., Any] = dataclasses.field(compare=False)
    arguments: Arguments = dataclasses.field(compare=False)
