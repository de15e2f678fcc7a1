"""Options of XLA's compiler for programs of very many small operations."""

from __future__ import annotations

import functools
from typing import Any

import jax

from vijax.runtime.compilation_cache import OnDisk

# XLA's older way of fusing loops on CPUs, and no optimization by LLVM: a quarter of the time for
# models with hundreds of scalar sites, whose programs run in a millisecond either way. The options
# differ between releases.
_CANDIDATES: tuple[dict[str, Any], ...] = (
    {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0},
    {"xla_backend_optimization_level": 0},
)


@functools.cache
def fast_compilation() -> dict[str, Any] | None:
    """Options that shorten compilation on CPUs; `None` on other devices, or if there are none."""
    if jax.default_backend() != "cpu":
        return None
    for options in _CANDIDATES:
        try:
            with OnDisk():
                jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
        except Exception:  # an option that this release does not know
            continue
        return options
    return None
