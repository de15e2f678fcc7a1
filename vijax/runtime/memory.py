"""Out-of-memory errors with a remedy for the user."""

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
    """Converts out-of-memory errors of the device or the host into one with a remedy.

    Args:
        what: name of the public function.
        remedy: how to use less memory.

    Raises:
        OutOfMemoryError: in place of those of JAX and Python.
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
    """Rejects results larger than the memory of this machine.

    Operating systems overcommit memory and kill the process that uses it.

    Args:
        num_bytes: size of the result on the host.

    Raises:
        MemoryError: it exceeds the installed memory.
    """
    if num_bytes > _installed():
        installed, needed = (f"{number / 2**30:,.1f} GiB" for number in (_installed(), num_bytes))
        raise MemoryError(f"the result takes {needed}, the machine has {installed}")


@functools.cache
def _installed() -> float:
    """Bytes of memory of this machine, `inf` if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
