"""Serialization to a single `.npz` file: arrays, and a JSON manifest that refers to them by index.

Nothing is pickled, so that reading a file executes no code from it. Supported are plain Python
values, containers, arrays, and the library's own dataclasses and named tuples, by class name and
fields. Pytrees with other node types are written as leaves with their paths, and read into a
template given by the caller.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from vijax.contracts import PyTree
from vijax.runtime.errors import VijaxError, mismatch

_MANIFEST = "manifest"
_PACKAGE = __name__.split(".")[0]
_NATIVE = "biufc"  # dtype kinds native to NumPy; others are stored as raw bytes
_PLAIN = (type(None), bool, int, str)


class NotStored(VijaxError):
    """A value that the file does not contain, because it could only have been pickled."""


class Writer:
    """Encodes values and collects their arrays.

    Args:
        lenient: whether a value that cannot be serialized is replaced by a note, for which `decode`
            raises `NotStored`.
    """

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient
        self.arrays: list[np.ndarray] = []

    def encode(self, value: Any) -> Any:
        """A value as JSON.

        Raises:
            NotStored: its type cannot be serialized.
        """
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, float):
            return value if np.isfinite(value) else {"float": repr(value)}
        if isinstance(value, jax.ShapeDtypeStruct):
            return {"shape": list(value.shape), "dtype": str(value.dtype)}
        if isinstance(value, (np.bool_, np.integer)):
            return value.item()
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return self._array(value)
        fields = _fields(value)
        if fields is not None:
            name = f"{type(value).__module__}.{type(value).__qualname__}"
            return {"class": name, "fields": {k: self.encode(v) for k, v in fields.items()}}
        if type(value) in (tuple, list):
            return {type(value).__name__: [self.encode(one) for one in value]}
        if isinstance(value, Mapping) and type(value).__module__ == "builtins":
            return {"dict": [[self.encode(k), self.encode(v)] for k, v in value.items()]}
        if self.lenient:
            return {"not stored": _describe(value)}
        raise NotStored(_describe(value))

    def tree(self, tree: PyTree) -> Any:
        """A pytree as its paths and leaves."""
        flat, _ = jax.tree.flatten_with_path(tree)
        return {
            "paths": [jax.tree_util.keystr(path) for path, _ in flat],
            "leaves": [self.encode(leaf) for _, leaf in flat],
        }

    def record(self, record: Any, **trees: Callable[[Any], Any]) -> dict[str, Any]:
        """The fields of a named tuple as JSON; `trees` maps fields to special encoders."""
        return {
            name: trees.get(name, self.encode)(value) for name, value in record._asdict().items()
        }

    def _array(self, value: Any) -> dict[str, Any]:
        note: dict[str, Any] = {"array": len(self.arrays)}
        if isinstance(value, np.generic):
            note["scalar"] = True
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            note["key"] = str(jax.random.key_impl(value))
            value = jax.random.key_data(value)
        array = np.asarray(jax.device_get(value))
        if array.dtype.kind not in _NATIVE:
            note["dtype"] = array.dtype.name
            array = array.view(f"u{array.dtype.itemsize}")
        self.arrays.append(array)
        return note


class Reader:
    """Decodes values encoded by a `Writer`.

    Args:
        arrays: the writer's arrays.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays

    def decode(self, note: Any) -> Any:
        """The value of its JSON.

        Raises:
            NotStored: the value was not stored.
            VijaxError: its class does not exist in this version.
        """
        if not isinstance(note, dict):
            return note
        kind, content = next(iter(note.items()))
        match kind:
            case "float":
                return float(content)
            case "shape":
                return jax.ShapeDtypeStruct(tuple(content), _dtype(note["dtype"]))
            case "array":
                return self._array(note)
            case "class":
                fields = {k: self.decode(v) for k, v in note["fields"].items()}
                return stored_class(content)(**fields)
            case "tuple":
                return tuple(self.decode(one) for one in content)
            case "list":
                return [self.decode(one) for one in content]
            case "dict":
                return {self.decode(k): self.decode(v) for k, v in content}
            case _:
                raise NotStored(str(content))

    def tree(self, note: Any, template: PyTree, what: str, remedy: str = "") -> PyTree:
        """A pytree with the template's structure.

        Raises:
            VijaxError: the structures differ.
        """
        flat, structure = jax.tree.flatten_with_path(template)
        paths = [jax.tree_util.keystr(path) for path, _ in flat]
        if paths != note["paths"]:
            got = _difference(note["paths"], paths)
            raise VijaxError(mismatch(what, "the leaves of the file", got, remedy))
        return jax.tree.unflatten(structure, [self.decode(leaf) for leaf in note["leaves"]])

    def _array(self, note: dict[str, Any]) -> Any:
        array = self.arrays[note["array"]]
        if "dtype" in note:
            array = array.view(jnp.dtype(note["dtype"]))
        if "key" in note:
            return jax.random.wrap_key_data(jnp.asarray(array), impl=note["key"])
        return array[()] if "scalar" in note else array


def write(path: str | os.PathLike[str], manifest: Any, arrays: list[np.ndarray]) -> None:
    """Writes a file atomically.

    Args:
        path: the file.
        manifest: see `Writer`.
        arrays: see `Writer`.

    Raises:
        FileNotFoundError: the directory does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no directory {path.parent}. Create it first.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _dump(file, manifest, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_bytes(manifest: Any, arrays: list[np.ndarray]) -> bytes:
    """The contents of the file that `write` writes."""
    file = io.BytesIO()
    _dump(file, manifest, arrays)
    return file.getvalue()


def read(source: str | os.PathLike[str] | io.BytesIO, label: str) -> tuple[Any, list[np.ndarray]]:
    """The manifest and the arrays of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        VijaxError: it was not written by `write`, or it is corrupt.
    """
    content = source if isinstance(source, io.BytesIO) else io.BytesIO(Path(source).read_bytes())
    expected = "a file written by Posterior.save"
    if not zipfile.is_zipfile(content):
        start = content.getvalue()[:16]
        got = f"a truncated file or no archive: {start!r}..." if start else "an empty one"
        raise VijaxError(mismatch(label, expected, got))
    try:
        with zipfile.ZipFile(content) as archive:
            names = [one.filename.removesuffix(".npy") for one in archive.infolist()]
            if _MANIFEST not in names:
                raise VijaxError(mismatch(label, expected, f"an archive of {names[:5]}"))
            manifest = json.loads(_member(archive, _MANIFEST).tobytes().decode())
            return manifest, [_member(archive, f"{i}") for i in range(len(names) - 1)]
    except VijaxError:
        raise
    except _CORRUPT as error:
        raise VijaxError(mismatch(label, expected, f"a corrupt one ({error})")) from error


_CORRUPT = (
    *(zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError, TypeError),
    *(NotImplementedError, RuntimeError, zlib.error, RecursionError, OverflowError, SyntaxError),
)


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an archive, whose sizes are checked before memory is taken for them."""
    note = archive.getinfo(f"{name}.npy")
    if note.compress_type != zipfile.ZIP_STORED or note.file_size != note.compress_size:
        raise ValueError(f"{name!r} is compressed, which Posterior.save does not do")
    file = io.BytesIO(archive.read(note))
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    size, found = math.prod(shape) * dtype.itemsize, note.file_size - file.tell()
    if size != found or dtype.hasobject:
        raise ValueError(f"{name!r} is said to have {size} bytes of {dtype}, got {found}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _dump(file: IO[bytes], manifest: Any, arrays: list[np.ndarray]) -> None:
    text = json.dumps(manifest, allow_nan=False).encode()
    entries: dict[str, Any] = {f"{i}": array for i, array in enumerate(arrays)}
    entries[_MANIFEST] = np.frombuffer(text, np.uint8)
    np.savez(file, **entries)


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or named tuple of the library, `None` for other values."""
    if not type(value).__module__.startswith(f"{_PACKAGE}.") or isinstance(value, type):
        return None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    # configuration is compared by value; classes compared by identity contain code and caches
    if dataclasses.is_dataclass(value) and type(value).__eq__ is not object.__eq__:
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    return None


def _difference(stored: list[str], found: list[str]) -> str:
    """The difference between the leaves of a pytree and the stored ones."""
    extra = [path for path in found if path not in stored]
    missing = [path for path in stored if path not in found]
    parts = [f"additional {extra}"] * bool(extra) + [f"no {missing}"] * bool(missing)
    return " and ".join(parts) or "another order"


def _dtype(name: str) -> Any:
    """A dtype by name; the dtype of typed keys is not a NumPy dtype."""
    key = jax.random.key(0).dtype
    return key if name == str(key) else jnp.dtype(name)


def stored_class(name: str) -> type:
    """A dataclass or named tuple of the library by its qualified name."""
    module, _, attribute = name.rpartition(".")
    found: Any = None
    if module.startswith(f"{_PACKAGE}."):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    defined_there = isinstance(found, type) and found.__module__ == module
    if defined_there and (dataclasses.is_dataclass(found) or hasattr(found, "_make")):
        return found
    raise VijaxError(
        f"the file contains a {name}, which this version of the library does not have. Load it "
        "with the version that wrote it."
    )


def _describe(value: Any) -> str:
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name!r}" if name else f"a {type(value).__name__}"
