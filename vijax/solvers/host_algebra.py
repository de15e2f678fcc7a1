"""NumPy settings while a solver runs: floating-point warnings and BLAS threads.

Solvers check for non-finite numbers themselves: NumPy neither warns nor raises. Its linear algebra
uses one thread: solvers multiply many small matrices between calls to XLA, and from about 64 x 64
on OpenBLAS starts for each product a thread pool that competes with XLA's. On a busy two-core
machine a fit in 200 dimensions took 12.7 s with two threads and 0.4 s with one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

_SERIAL_BELOW = 1000  # order from which a product of square matrices benefits from threads


@contextlib.contextmanager
def host_algebra(order: int) -> Iterator[None]:
    """Runs a block without floating-point warnings, and with one BLAS thread if `order` is small.

    `order` is that of the largest square matrices in the block; products of thin matrices do not
    benefit from threads. Unchanged if NumPy does not use the OpenBLAS of its wheels.
    """
    controls = _openblas() if order < _SERIAL_BELOW else None
    with np.errstate(all="ignore"):
        if controls is None:
            yield
            return
        get_threads, set_threads = controls
        previous = get_threads()
        set_threads(1)
        try:
            yield
        finally:
            set_threads(previous)


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The functions that get and set the number of threads of the BLAS loaded by NumPy."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            for suffix in ("64_", ""):
                get_threads = getattr(library, f"scipy_openblas_get_num_threads{suffix}", None)
                set_threads = getattr(library, f"scipy_openblas_set_num_threads{suffix}", None)
                if get_threads is not None and set_threads is not None:
                    return get_threads, set_threads
    return None
