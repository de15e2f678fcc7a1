"""Structural identity of functions: when two closures mean the same, they share compiled code.

`optax.adam(1e-2)` made twice is two objects that do the same; a model function that reads a
global which has since changed is one object that does two things. `fingerprint` tells both
apart: it compares code, closure cells, defaults and the globals that the code names.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "numpyro", "optax", "flax", "scipy", "vijax"})
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype, type(Ellipsis))


class _Identity:
    """Compares by identity and keeps its object alive, so that the identity stays unique."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def fingerprint(value: Any) -> Hashable:
    """A hashable that is equal for values which behave alike, as far as can be seen.

    NumPy arrays compare by content, JAX arrays (immutable) and unknown objects by identity.
    """
    return _fingerprint(value, {})


def _fingerprint(value: Any, seen: dict[int, int]) -> Hashable:  # noqa: C901, PLR0911
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if id(value) in seen:
        return ("again", seen[id(value)])
    if isinstance(value, (types.ModuleType, type, jax.Array, types.BuiltinFunctionType)):
        return _Identity(value)
    seen[id(value)] = len(seen)

    def inner(part: Any) -> Hashable:
        return _fingerprint(part, seen)

    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype == object:
            return _Identity(value)
        digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()
        return ("array", array.shape, array.dtype.str, digest)
    if isinstance(value, (tuple, list)):
        return (type(value), *map(inner, value))
    if isinstance(value, Mapping):
        return (type(value), *((inner(k), inner(v)) for k, v in value.items()))
    if isinstance(value, (set, frozenset)):
        return (type(value), frozenset(map(inner, value)))
    if isinstance(value, functools.partial):
        return (functools.partial, inner(value.func), inner(value.args), inner(value.keywords))
    if isinstance(value, types.MethodType):
        return (types.MethodType, inner(value.__func__), inner(value.__self__))
    if isinstance(value, types.FunctionType):
        return (value.__code__, *map(inner, _captured(value)))
    if type(value).__module__.split(".")[0] in ("jaxlib", "builtins"):  # jitted functions, C objects
        wrapped = getattr(value, "__wrapped__", None)
        return _Identity(value) if wrapped is None else ("wrapped", inner(wrapped))
    if hasattr(value, "__dict__"):
        return (type(value), inner(vars(value)))
    return _Identity(value)


def _captured(function: types.FunctionType) -> list[Any]:
    """What a function's behaviour depends on beside its code and arguments."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # a cell not filled yet
            cells.append(None)
    captured = [*cells, function.__defaults__, function.__kwdefaults__]
    if (function.__module__ or "").split(".")[0] not in _LIBRARIES:
        scope = function.__globals__
        captured += [scope[name] for name in sorted(_names(function.__code__)) if name in scope]
    return captured


def _names(code: types.CodeType) -> set[str]:
    """Global names in a code object and in the functions it defines."""
    nested = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*map(_names, nested))
