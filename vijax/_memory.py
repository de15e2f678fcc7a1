"""Running out of memory, said in terms of what the user can change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from vijax._errors import OutOfMemoryError

_EXHAUSTED = "RESOURCE_EXHAUSTED"


@contextlib.contextmanager
def named_memory(what: str, remedy: str) -> Iterator[None]:
    """Turns running out of memory, on the device or the host, into an error with a remedy.

    Args:
        what: the call, as the user knows it.
        remedy: what would take less.

    Raises:
        OutOfMemoryError: in place of JAX's and Python's own.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and _EXHAUSTED not in str(error):
            raise
        first = (str(error).strip() or "no message").split("\n")[0]
        raise OutOfMemoryError(f"{what}: not enough memory ({first}). {remedy}") from error
