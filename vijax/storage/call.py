"""The model's arguments in a file: everything but the values of the arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from vijax.model import Arguments
from vijax.runtime.errors import ArgumentError, mismatch
from vijax.storage.codec import NotStored, Reader, Writer

Call = tuple[tuple[Any, ...], dict[str, Any]]


def encode(arguments: Arguments, writer: Writer) -> dict[str, Any]:
    """The call that a model was fitted with, arrays by name, shape and dtype.

    What cannot be written (functions, objects of the user's) is replaced by a note.
    """
    args, kwargs = arguments.join(arguments.abstract())
    static = {name: writer.encode(value) for name, value in arguments.static().items()}
    arrays = {name: [list(shape), str(dtype)] for name, (shape, dtype) in arguments.avals.items()}
    return {
        "args": [writer.encode(value) for value in args],
        "kwargs": {name: writer.encode(value) for name, value in kwargs.items()},
        "static": static,
        "arrays": arrays,
    }


def complete(model: Callable[..., Any], note: dict[str, Any], given: Call, reader: Reader) -> Call:
    """The call of the fit, with the arguments that are given now in their places.

    Arguments that are not given come from the file, arrays as `jax.ShapeDtypeStruct`.

    Raises:
        ArgumentError: an argument is given that the fit did not have, or one is needed that was
            not stored.
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
                f"argument {label!r}: expected it to be given again, since the file does not hold "
                f"{error}. Load it as vijax.load(path, model, {label}=...)."
            ) from None

    known = [*labels[: len(note["args"])], *note["kwargs"]]
    args = tuple(argument(*pair) for pair in zip(labels, note["args"], strict=False))
    kwargs = {name: argument(name, part) for name, part in note["kwargs"].items()}
    if values:
        extra = next(iter(values))
        raise ArgumentError(
            mismatch(f"argument {extra!r}", f"those of the fit, {known}", "one more")
        )
    return args, kwargs


def check(note: dict[str, Any], arguments: Arguments) -> None:
    """Compares a call with the one of the fit.

    Raises:
        ArgumentError: naming the argument that differs.
    """
    now = encode(arguments, Writer(lenient=True))
    for kind in ("arrays", "static"):
        for name in dict.fromkeys([*note[kind], *now[kind]]):
            then, here = (_label(call, name) for call in (note, now))
            if then != here:
                raise ArgumentError(mismatch(f"argument {name!r}", f"{then} as in the fit", here))


def _label(note: dict[str, Any], name: str) -> str:
    if name in note["arrays"]:
        shape, dtype = note["arrays"][name]
        return f"an array {tuple(shape)} of {dtype}"
    return f"the value {note['static'][name]!r}" if name in note["static"] else "nothing"


def _labels(model: Callable[..., Any], count: int) -> list[str]:
    """What the first positional arguments are called."""
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
