"""Serialization of the model's arguments, without the values of arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from vijax.model import Arguments, Call
from vijax.runtime.encoding import Known
from vijax.runtime.errors import ArgumentError, mismatch
from vijax.storage.checks import digest
from vijax.storage.codec import NotStored, Reader, Writer


def encode(arguments: Arguments, writer: Writer) -> dict[str, Any]:
    """The arguments of a fit as JSON, arrays by name, shape and dtype.

    Values that cannot be serialized (functions, user-defined objects) are replaced by a note.
    """
    args, kwargs = arguments.join(arguments.abstract())
    static = {
        name: {"digest": digest(value)} if name in arguments.by_content else writer.encode(value)
        for name, value in arguments.static().items()
    }
    arrays = {name: [list(shape), str(dtype)] for name, (shape, dtype) in arguments.avals.items()}
    return {
        "args": [writer.encode(value) for value in args],
        "kwargs": {name: writer.encode(value) for name, value in kwargs.items()},
        "static": static,
        "arrays": arrays,
        "by content": sorted(arguments.by_content),
        "levels": {name: writer.encode(one) for name, one in arguments.levels.items()},
        "coords": {name: encode_labels(one, writer) for name, one in arguments.coords.items()},
    }


def encode_labels(labels: np.ndarray, writer: Writer) -> Any:
    """Labels as JSON; numbers and dates are stored as arrays, strings as text."""
    return writer.encode(labels.tolist() if labels.dtype.kind == "U" else labels)


def known(note: dict[str, Any], reader: Reader) -> dict[str, Known]:
    """What the fit knows of its columns, see `Arguments.known`."""
    levels = {name: reader.decode(one) for name, one in note.get("levels", {}).items()}
    found = dict.fromkeys([*note["arrays"], *note["by content"]], Known(numeric=True))
    return found | {name: Known(labels) for name, labels in levels.items()}


def coords(note: dict[str, Any], reader: Reader) -> dict[str, np.ndarray]:
    """The labels of the fit by dimension; none in files of earlier versions."""
    return {name: np.asarray(reader.decode(one)) for name, one in note.get("coords", {}).items()}


def complete(model: Callable[..., Any], note: dict[str, Any], given: Call, reader: Reader) -> Call:
    """The arguments of the fit, replaced by those given now.

    Arguments that are not given are read from the file, arrays as `jax.ShapeDtypeStruct`.

    Raises:
        ArgumentError: an argument is given that the fit did not have, or one is missing that the
            file does not contain.
    """
    labels = _labels(model, max(len(note["args"]), len(given[0])))
    values = dict(zip(labels, given[0], strict=False)) | given[1]

    def argument(label: str, note: Any) -> Any:
        if label in values:
            return values.pop(label)
        try:
            return reader.decode(note)
        except NotStored as error:
            raise ArgumentError(
                f"argument {label!r}: expected it to be given again, since the file does not "
                f"contain {error}. Load it as vijax.load(path, model, {label}=...)."
            ) from None

    known = [*labels[: len(note["args"])], *note["kwargs"]]
    args = tuple(argument(*pair) for pair in zip(labels, note["args"], strict=False))
    kwargs = {name: argument(name, part) for name, part in note["kwargs"].items()}
    if values:
        extra = next(iter(values))
        raise ArgumentError(
            mismatch(f"argument {extra!r}", f"arguments of the fit, {known}", "an additional one")
        )
    return args, kwargs


def check(note: dict[str, Any], arguments: Arguments) -> None:
    """Compares arguments with those of the fit.

    Raises:
        ArgumentError: an argument differs; names it.
    """
    for name, labels in arguments.new_levels.items():
        expected = f"labels of the fit, {arguments.levels[name][: -len(labels)]}"
        raise ArgumentError(mismatch(f"argument {name!r}", expected, f"{labels}, too"))
    new_note = encode(arguments, Writer(lenient=True))
    for kind in ("arrays", "static"):
        for name in dict.fromkeys([*note[kind], *new_note[kind]]):
            old, new = (_label(call, name) for call in (note, new_note))
            if old != new:
                raise ArgumentError(mismatch(f"argument {name!r}", f"{old} as in the fit", new))


def _label(note: dict[str, Any], name: str) -> str:
    if name in note["arrays"]:
        shape, dtype = note["arrays"][name]
        return f"an array {tuple(shape)} of {dtype}"
    return f"the value {note['static'][name]!r}" if name in note["static"] else "nothing"


def _labels(model: Callable[..., Any], count: int) -> list[str]:
    """The names of the first `count` positional arguments."""
    names = [f"args[{i}]" for i in range(count)]
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return names
    for i, parameter in enumerate(parameters):
        if i >= count or parameter.kind is parameter.VAR_POSITIONAL:
            break
        names[i] = parameter.name
    return names
