"""Running out of memory, said in terms of what the user can change."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator

import jax

from vijax.runtime.errors import OutOfMemoryError

_EXHAUSTED = "RESOURCE_EXHAUSTED"


@contextlib.contextmanager
def explain_out_of_memory(what: str, remedy: str) -> Iterator[None]:
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


def check_host_memory(num_bytes: float) -> None:
    """Refuses what this machine could not hold if its memory were empty.

    Systems lend more than there is, and end the process that uses it.

    Args:
        num_bytes: what an answer takes on the host.

    Raises:
        MemoryError: there is not as much.
    """
    if num_bytes > _installed():
        has, takes = (f"{number / 2**30:,.1f} GiB" for number in (_installed(), num_bytes))
        raise MemoryError(f"the answer takes {takes}, the machine has {has}")


@functools.cache
def _installed() -> float:
    """Bytes of memory of this machine, `inf` where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
