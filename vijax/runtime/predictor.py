"""Predictions for rows by one program at a few sizes; needs JAX and NumPy only.

An exported file contains a copy of this module, so that it can be used where the library is not
installed. It therefore imports nothing else.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import operator
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

FORMAT = 1
MODULE = "vijax_predictor"  # name of the copy of this module in a file
_MASK = 2**32 - 1
_FACTOR = 4  # between sizes
_WASTE = 16  # size up to which padding costs less than another call


class Predictor:
    """A compiled posterior predictive for any number of rows, see `vijax.Posterior.predictor`.

    Rows are padded to 1, 4, 16, 64, ... or `max_rows`, and more than that are taken in blocks:
    once these sizes are compiled, no number of rows compiles anything. Results do not depend on the
    padding, and those of a row not on the other rows. Calls from several threads run at the same
    time.

    Attributes:
        rows: names of the arguments that have an axis of rows.
        sizes: the numbers of rows that programs are compiled for.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        fixed: Mapping[str, Any],
        state: tuple[Any, ...],
        config: dict[str, Any],
    ) -> None:
        """See `vijax.Posterior.predictor` and `load`.

        Args:
            program: `(seed, rows, fixed, *state) -> values`; `seed` is the key and the number of
                the first row, `(3,)` uint32.
            fixed: the arrays without an axis of rows, by name.
            state: of the program, on the device.
            config: what is written to a file as JSON: `positions`, names of positional arguments;
                `rows`, by name `axis`, `shape` (of a row), `dtype`, of codes their `labels`, of
                indices their `limits`, `missing` if NaN is allowed; `ignored`, names of arrays
                along rows that have no effect; `plain`, arguments that are no arrays;
                `output_axes`, the axis of rows of every leaf of the output; `max_rows`; `x64`,
                whether it is in double precision.
        """
        self._program, self._fixed, self._state, self._config = program, dict(fixed), state, config
        self._specs = {
            name: (spec["axis"], tuple(spec["shape"]), np.dtype(spec["dtype"]))
            for name, spec in config["rows"].items()
        }
        self._limits = {n: x["limits"] for n, x in config["rows"].items() if "limits" in x}
        self._codes = {
            name: {label: code for code, label in enumerate(spec["labels"])}
            for name, spec in config["rows"].items()
            if "labels" in spec
        }
        self._numbers = frozenset(
            name
            for name, spec in config["rows"].items()
            if not spec.get("missing") and self._specs[name][2].kind == "f"
        )
        self._ignored = frozenset(config["ignored"])
        self._compiled: set[int] = set()
        self._lock = threading.Lock()
        self.rows: tuple[str, ...] = tuple(self._specs)
        self.sizes: tuple[int, ...] = tuple(_sizes(config["max_rows"]))

    def __repr__(self) -> str:
        return f"Predictor(rows={self.rows}, sizes={self.sizes})"

    def __call__(self, *args: Any, rng_key: Any = 0, **kwargs: Any) -> Any:
        """Predictions for rows.

        Args:
            *args: the model's arguments, as in the example; those without an axis of rows may be
                left out and are those of the example. Data of observed sites have no effect.
            rng_key: an int, a JAX key or a legacy key; the draws of row `i` depend on the key and
                on `i` only.
            **kwargs: its keyword arguments.

        Returns:
            What `returns` of `vijax.Posterior.predictor` says, as NumPy arrays.

        Raises:
            TypeError: an argument is unknown, missing, or of another kind of number.
            ValueError: an array has another shape, or the numbers of rows differ.
        """
        rows, fixed, num_rows = self._arrays(args, kwargs)
        words, size = _key_words(rng_key), self._size(num_rows)
        if num_rows <= size:
            return self._run(words, 0, rows, fixed, num_rows)
        parts, start = [], 0
        while start < num_rows:
            stop = min(start + self._size(num_rows - start), num_rows)
            block = {n: _take(value, self._specs[n][0], start, stop) for n, value in rows.items()}
            parts.append(self._run(words, start, block, fixed, stop - start))
            start = stop
        leaves = zip(*map(jax.tree.leaves, parts), strict=True)
        pairs = zip(leaves, self._config["output_axes"], strict=True)
        joined = [np.concatenate(blocks, axis) for blocks, axis in pairs]
        return jax.tree.unflatten(jax.tree.structure(parts[0]), joined)

    def compile(self) -> Predictor:
        """Compiles all sizes, before the first request; returns itself."""
        for size in self.sizes:
            rows = {
                name: np.zeros((*shape[:axis], size, *shape[axis:]), dtype)
                for name, (axis, shape, dtype) in self._specs.items()
            }
            self._run((0, 0), 0, rows, self._fixed, size)
        return self

    def _size(self, num_rows: int) -> int:
        """The number of rows, padding included, of the next block of so many."""
        place = min(bisect.bisect_left(self.sizes, num_rows), len(self.sizes) - 1)
        size = self.sizes[place]
        # two blocks take less than one that is mostly padding
        return self.sizes[place - 1] if size > _WASTE and size >= 2 * num_rows else size

    def _run(
        self,
        words: tuple[int, int],
        first: int,
        rows: dict[str, np.ndarray],
        fixed: dict[str, Any],
        num_rows: int,
    ) -> Any:
        """The program on at most `max_rows` rows."""
        size = self._size(num_rows)
        if size != num_rows:
            rows = {n: _pad(value, self._specs[n][0], size) for n, value in rows.items()}
        seed = np.array((*words, first), np.uint32)
        with self._precision():
            if size in self._compiled:
                found = self._program(seed, rows, fixed, *self._state)
            else:
                with self._lock:  # one thread compiles a size, others wait for it
                    found = self._program(seed, rows, fixed, *self._state)
                    self._compiled.add(size)
        leaves, structure = jax.tree.flatten(found)
        arrays = [np.asarray(leaf) for leaf in leaves]
        if size != num_rows:
            pairs = zip(arrays, self._config["output_axes"], strict=True)
            arrays = [_take(array, axis, 0, num_rows) for array, axis in pairs]
        return jax.tree.unflatten(structure, arrays)

    def _precision(self) -> Any:
        """A context in the precision of the program."""
        double = self._config["x64"]
        same = double == jax.config.jax_enable_x64  # type: ignore[attr-defined]
        return contextlib.nullcontext() if same else jax.enable_x64(double)

    def _arrays(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
        """The arrays along rows in the types of the program, the others, the number of rows."""
        rows: dict[str, np.ndarray] = {}
        fixed, num_rows = self._fixed, -1
        for name, value in self._leaves(args, kwargs):
            if name in self._specs:
                array, num = self._row_array(name, value)
                if num_rows not in (-1, num):
                    raise ValueError(
                        f"argument {name!r}: expected {num_rows} rows, as {next(iter(rows))!r} "
                        f"has, got {num}."
                    )
                rows[name], num_rows = array, num
            elif name in self._fixed:
                fixed = fixed | {name: self._fixed_array(name, value)}
            elif name not in self._ignored:
                self._check_plain(name, value)
        if len(rows) < len(self._specs):
            missing = [name for name in self._specs if name not in rows]
            raise TypeError(
                f"predictor: expected the arguments {list(self.rows)}, got no {missing[0]!r}."
            )
        return rows, fixed, num_rows

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        """All values of a call, by name."""
        positions = self._config["positions"]
        if len(args) > len(positions):
            raise TypeError(
                f"predictor: expected the positional arguments {positions}, got {len(args)}."
            )
        given = dict(zip(positions, args, strict=False))
        for name in kwargs:
            if name in given:
                raise TypeError(f"predictor: argument {name!r} was passed twice.")
        found: list[tuple[str, Any]] = []
        arrays = self._specs.keys() | self._fixed.keys() | self._ignored
        for name, value in (given | kwargs).items():
            if hasattr(value, "dtype"):
                found.append((name, value))
                continue
            if hasattr(value, "columns") and hasattr(value, "__getitem__"):  # a data frame
                labels = {f"{name}[{column!r}]": column for column in value.columns}
                known = labels.keys() & arrays
                found.extend((label, value[labels[label]]) for label in known)
                continue

            def is_array(path: Any, leaf: Any, name: str = name) -> bool:
                """Whether an array is here, also as a list."""
                return leaf is not None and name + keystr(path) in arrays

            leaves, _ = tree_flatten_with_path(value, is_array, is_leaf_takes_path=True)
            found += [(name + keystr(path), leaf) for path, leaf in leaves]
        return found

    def _row_array(self, name: str, value: Any) -> tuple[np.ndarray, int]:
        axis, shape, dtype = self._specs[name]
        array = np.asarray(value)
        if name in self._codes:
            array = self._coded(name, array)
        if array.ndim <= axis or array.shape[:axis] + array.shape[axis + 1 :] != shape:
            expected = ", ".join([*map(str, shape[:axis]), "rows", *map(str, shape[axis:])])
            raise ValueError(f"argument {name!r}: expected shape ({expected}), got {array.shape}.")
        array = _cast(name, array, dtype)
        if name in self._numbers and np.isnan(np.sum(array)) and np.isnan(array).any():
            place = [int(i) for i in np.argwhere(np.isnan(array))[0]]
            raise ValueError(
                f"argument {name!r}: expected numbers, as in the fit, got NaN at index {place}."
            )
        if name in self._limits and array.size:
            low, high = self._limits[name]
            if array.min() < low or array.max() > high:
                got = array[(array < low) | (array > high)][0]
                raise ValueError(
                    f"argument {name!r}: expected indices from {low} to {high}, as in the fit, got "
                    f"{got}."
                )
        return array, array.shape[axis]

    def _coded(self, name: str, labels: np.ndarray) -> np.ndarray:
        """The codes of labels."""
        codes = self._codes[name]
        try:
            return np.array([codes[label] for label in labels.ravel().tolist()], np.int32)
        except KeyError as error:
            known = ", ".join(map(repr, list(codes)[:5])) + ", ..." * (len(codes) > 5)
            raise ValueError(
                f"argument {name!r}: expected labels of the fit, {known}; got {error}."
            ) from None

    def _fixed_array(self, name: str, value: Any) -> Any:
        expected = self._fixed[name]
        array = np.asarray(value)
        if array.shape != expected.shape:
            raise ValueError(
                f"argument {name!r}: expected shape {expected.shape}, got {array.shape}."
            )
        return _cast(name, array, expected.dtype)

    def _check_plain(self, name: str, value: Any) -> None:
        plain = self._config["plain"]
        if name not in plain:
            known = [*self._specs, *self._fixed, *plain]
            raise TypeError(f"predictor: expected arguments among {known}, got {name!r}.")
        if not (plain[name] is value or np.array_equal(plain[name], value)):
            raise ValueError(
                f"argument {name!r}: expected {plain[name]!r}, with which the predictor was made, "
                f"got {value!r}. Make another predictor for it."
            )


def load(path: str | os.PathLike[str]) -> Predictor:
    """Loads a predictor that was exported to a file.

    Args:
        path: the file.

    Raises:
        ValueError: it is not such a file, or of a newer format.
    """
    try:
        with zipfile.ZipFile(path) as file:
            config = json.loads(file.read("predictor.json"))
            program = file.read("program.bin")
            with np.load(io.BytesIO(file.read("arrays.npz"))) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: expected a file written by Predictor.export.") from error
    if config["format"] > FORMAT:
        version = config["versions"]["vijax"]
        raise ValueError(f"{path}: expected an older file, got one of vijax {version}. Update it.")
    with jax.enable_x64(config["x64"]):
        arrays = {
            name: jax.device_put(array.view(config["dtypes"].get(name, array.dtype)))
            for name, array in arrays.items()
        }
    leaves = [arrays.pop(str(i)) for i in range(config["num_leaves"])]
    call = jax.jit(jax.export.deserialize(bytearray(program)).call)
    return Predictor(call, arrays, (leaves,), config)


def _sizes(max_rows: int) -> Iterator[int]:
    """The numbers of rows that programs are compiled for."""
    size = 1
    while size < max_rows:
        yield size
        size *= _FACTOR
    yield max_rows


def _key_words(rng_key: Any) -> tuple[int, int]:
    """The two words of a key, as of `jax.random.key(seed)`."""
    if hasattr(rng_key, "dtype"):
        if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
            rng_key = jax.random.key_data(rng_key)
        words = np.asarray(rng_key).ravel()
        if words.dtype == np.uint32 and words.size >= 2:
            return int(words[0]), int(words[1])
    try:
        seed = operator.index(rng_key)
    except TypeError:
        raise TypeError(
            f"rng_key: expected an int or a JAX key, got {type(rng_key).__name__}."
        ) from None
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"rng_key: expected an int of 64 bits, got {seed}.")
    return seed >> 32 & _MASK, seed & _MASK


def _cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in the type of the program."""
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"argument {name!r}: expected numbers of type {dtype}, got {array.dtype}.")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"argument {name!r}: expected numbers within {dtype}.")
    return array.astype(dtype)


def _take(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _pad(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The array with `size` rows: copies of the last row are appended."""
    num = array.shape[axis]
    padded = np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype)
    before = (slice(None),) * axis
    padded[(*before, slice(0, num))] = array
    if num:
        padded[(*before, slice(num, size))] = array[(*before, slice(num - 1, num))]
    return padded
