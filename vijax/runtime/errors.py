"""Typed errors: each names the site or argument, what was expected, what came, the remedy."""


class VijaxError(ValueError):
    """Anything vijax refuses to do; also a `ValueError`."""


class ModelError(VijaxError):
    """The model function or its data cannot be fitted as given."""


class ArgumentError(ModelError, TypeError):
    """The model was called with the wrong arguments; also a `TypeError`."""


class GuideError(VijaxError):
    """The guide does not fit the model."""


class OutOfMemoryError(VijaxError, MemoryError):
    """The device or the host has too little memory for what was asked; also a `MemoryError`."""


class VijaxWarning(UserWarning):
    """A result that came back, but with a caveat; given once, with the remedy."""


def mismatch(what: str, expected: object, received: object, remedy: str = "") -> str:
    """Spells an error out: what is wrong, what was expected, what came, what to do."""
    message = f"{what}: expected {expected}, got {received}."
    return f"{message} {remedy}" if remedy else message
