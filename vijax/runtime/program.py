"""A compiled program that a fit can be left from: while it compiles, and before it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from vijax.runtime.compilation_cache import OnDisk
from vijax.runtime.deadline import Limit, current_limit, stop_if_overdue
from vijax.runtime.errors import ModelError
from vijax.runtime.progress import logger, tick
from vijax.runtime.stopwatch import count_program, spent_on

_MIXED = "requires arguments to have the same dtypes, got float"
_POLL = 0.02  # seconds between two looks at the clock during compilation


class Program:
    """`jax.jit(function, **options)`, which Ctrl-C and the time limit of a fit can end.

    XLA's compiler cannot be interrupted. It therefore runs in a thread, and if the fit's time ends
    meanwhile it is left behind there: its result is found by the next call. Tracing remains in the
    calling thread.

    Args:
        function: a pure function of arrays.
        **options: see `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.__name__ = getattr(function, "__name__", "program")
        self._jit = jax.jit(function, **options)
        self._compiled: set[Hashable] = set()

    def __call__(self, *args: Any) -> Any:
        """Runs the program.

        Raises:
            KeyboardInterrupt: the fit is overdue.
        """
        if self.compile(*args):
            return self._jit(*args)
        with OnDisk():  # it may be compiled here
            return self._jit(*args)

    def __getattr__(self, name: str) -> Any:
        if name == "_jit":  # not yet set, as while it is unpickled
            raise AttributeError(name)
        return getattr(self._jit, name)

    def compile(self, *args: Any) -> bool:
        """Compiles the program for such arguments, if it is not yet; it runs nothing.

        Returns:
            Whether it is compiled: not outside of a fit, nor inside of another program.

        Raises:
            KeyboardInterrupt: the fit is overdue.
        """
        limit = current_limit()
        if limit is None:
            return False
        stop_if_overdue()
        tick()
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):  # a part of another program
            return False
        signature = (structure, *map(_kind, leaves))
        if jax.process_count() > 1:  # which have to compile in step
            return False
        if signature not in self._compiled:
            self._compile(limit, args)
            self._compiled.add(signature)
        return True

    def _compile(self, limit: Limit, args: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        limit.allow_compilation()
        try:
            with spent_on("trace"):
                lowered = self._jit.lower(*args)
        except TypeError as error:
            if _MIXED not in str(error):
                raise
            # JAX 0.10 and 0.11 keep the precision in which an array was first seen
            raise ModelError(
                "model: expected arrays of float64 among its arguments only, for this solver works "
                "in double precision and the checks in single; the model reads one from elsewhere. "
                "Pass it as an argument, or convert it: np.float32(array)."
            ) from error
        done, failed, on_disk = threading.Event(), list[Exception](), OnDisk()

        def work() -> None:
            try:
                with on_disk:
                    lowered.compile()  # which JAX keeps, and finds when it is called
            except Exception as error:
                failed.append(error)
            finally:
                done.set()

        # no daemon: Python must not end while XLA is at work
        threading.Thread(target=work, name=f"compiling {self.__name__}").start()
        with spent_on("compile"):
            while not done.wait(_POLL):
                limit.allow_compilation()
                stop_if_overdue()
                tick("compiling")
        limit.end_compiling(start)
        if failed:
            raise failed[0]
        count_program(on_disk.loaded)
        verb, seconds = "loaded" if on_disk.loaded else "compiled", time.perf_counter() - start
        logger.debug("%s %s in %.2f s", verb, self.__name__, seconds)


def _kind(leaf: Any) -> Hashable:
    """What a program is specialized to in an argument; what is missing compiles when it is run."""
    if isinstance(leaf, (jax.Array, np.ndarray)):
        return leaf.shape, leaf.dtype
    kind: Any = leaf  # static
    if isinstance(leaf, (np.generic, int, float, complex)):
        kind = type(leaf)
    return kind
