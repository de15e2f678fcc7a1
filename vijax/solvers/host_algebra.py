"""The conditions that NumPy works under while a solver runs.

Non-finite numbers are data to a solver, which looks for them itself: NumPy neither warns nor
raises. And its linear algebra gets one thread: the solvers multiply many small matrices between
calls to XLA, and from about 64 x 64 on OpenBLAS wakes a pool of threads for each product that
spins beside XLA's own. On a busy two-core machine a fit in 200 dimensions took 12.7 s with two
threads and 0.4 s with one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

_SERIAL_BELOW = 1000  # a single product of square matrices this large is worth the threads


@contextlib.contextmanager
def host_algebra(order: int) -> Iterator[None]:
    """Runs a block without floating-point warnings, and with one BLAS thread if `order` is small.

    `order` is that of the largest square matrices in it; thin ones never repay the threads.
    They are left alone where NumPy was not built with the OpenBLAS of its wheels.
    """
    controls = _openblas() if order < _SERIAL_BELOW else None
    with np.errstate(all="ignore"):
        if controls is None:
            yield
            return
        get, put = controls
        before = get()
        put(1)
        try:
            yield
        finally:
            put(before)


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The functions that read and set the number of threads, in the library NumPy has loaded."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            for suffix in ("64_", ""):
                get = getattr(library, f"scipy_openblas_get_num_threads{suffix}", None)
                put = getattr(library, f"scipy_openblas_set_num_threads{suffix}", None)
                if get is not None and put is not None:
                    return get, put
    return None
