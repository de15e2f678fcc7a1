"""Layers whose call is computed by another function, with everything around them as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

LINEAR = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)


def number_of_rows(args: tuple[Any, ...]) -> int | None:
    """Length of the first axis of the first array among a module's arguments: its rows."""
    return next((a.shape[0] for a in args if getattr(a, "ndim", 0) > 0), None)


def intercept(layer: Any, compute: Callable[..., Any]) -> None:
    """Replaces the call of one layer by `compute(layer, call, inputs, *args, **kwargs)`.

    The layer gets a subclass of its class; `call(inputs)` is what it computed before.

    Args:
        layer: is changed.
        compute: a function of a module, so that there is one class for each.
    """
    kind: Any = type(layer)
    layer.__class__ = _subclass(kind, compute)


@functools.cache
def _subclass(kind: type, compute: Callable[..., Any]) -> type:
    def __call__(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        def call(x: Any) -> Any:
            return kind.__call__(self, x, *args, **kwargs)

        return compute(self, call, inputs, *args, **kwargs)

    names = {"__call__": __call__, "__module__": kind.__module__}
    prefix = compute.__name__.strip("_").title().replace("_", "")
    return type(f"{prefix}{kind.__name__}", (kind,), names)
