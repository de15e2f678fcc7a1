"""Typed errors: each names the site or argument, the expected and the actual value, a remedy."""

import inspect
import warnings

_INTERNAL = ("vijax.", "contextlib")


class VijaxError(ValueError):
    """Base class of all errors of vijax; also a `ValueError`."""


class ModelError(VijaxError):
    """The model function or its data cannot be fitted as given."""


class ArgumentError(ModelError, TypeError):
    """The model was called with the wrong arguments; also a `TypeError`."""


class GuideError(VijaxError):
    """The guide does not fit the model."""


class OutOfMemoryError(VijaxError, MemoryError):
    """The device or the host has too little memory for the request; also a `MemoryError`."""


class VijaxWarning(UserWarning):
    """A caveat about a result, with a remedy; issued once."""


def warn(text: str) -> None:
    """Issues a `VijaxWarning`, shown at the line outside of this library that led to it."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_INTERNAL):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, VijaxWarning, stacklevel=level + 1)


def mismatch(what: str, expected: object, received: object, remedy: str = "") -> str:
    """An error message in the common form: `<what>: expected ..., got .... <remedy>`."""
    message = f"{what}: expected {expected}, got {received}."
    return f"{message} {remedy}" if remedy else message
