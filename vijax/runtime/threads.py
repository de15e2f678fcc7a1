"""Work in other threads with the settings of the calling one."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")

# JAX keeps what `with` sets for each thread; a new one has the settings of the process.
_SETTINGS: dict[str, Callable[..., contextlib.AbstractContextManager[None]]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_debug_nans": jax.debug_nans,
    "jax_disable_jit": jax.disable_jit,
}


def with_settings_of_caller(function: Callable[P, T]) -> Callable[P, T]:
    """A function that runs in another thread as it would in this one; it may be called once.

    It has the context variables of this thread, such as the end of a fit's time, and what was set
    here by `with jax.enable_x64(True):`, `jax.default_device`, `jax.default_matmul_precision`,
    `jax.debug_nans` or `jax.disable_jit`.

    Args:
        function: what to run.
    """
    context = contextvars.copy_context()
    values = {name: getattr(jax.config, name) for name in _SETTINGS}

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with contextlib.ExitStack() as stack:
            for name, setting in _SETTINGS.items():
                if getattr(jax.config, name) != values[name]:
                    stack.enter_context(setting(values[name]))
            return context.run(function, *args, **kwargs)

    return run
