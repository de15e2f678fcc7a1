"""Structural identity of functions, so that equivalent closures share compiled programs.

Two calls of `optax.adam(1e-2)` return different objects with the same behavior; a model function
that reads a global which has since changed is the same object with different behavior.
`fingerprint` handles both: it covers code, closure cells, defaults and the globals that the code
refers to, and recurses into the user's modules, classes and objects.
"""

from __future__ import annotations

import collections
import contextvars
import datetime
import functools
import hashlib
import logging
import operator
import pickle
import re
import struct
import sys
import sysconfig
import threading
import types
import weakref
from array import ArrayType
from collections.abc import Callable, Hashable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import jax
import numpy as np

# Compared by identity: they do not change between two fits.
_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "numpyro", "optax", "flax", "scipy", "vijax"})
_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})

_EXACT: tuple[type, ...] = (bool, int, str, bytes, type(None), type(Ellipsis))
_EXACT += (type(NotImplemented), np.dtype, types.CodeType, types.GenericAlias, types.UnionType)
# by identity, since they do not change
_CONSTANT = (
    jax.Array,
    jax.Device,
    np.ufunc,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    type(threading.Lock()),
    type(threading.RLock()),
    logging.Logger,
)
_BY_REPR = (range, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, Decimal)
_BUFFERS = (bytearray, memoryview, ArrayType)
_TABLES = ("pandas", "polars", "pyarrow")  # libraries whose objects are pickled with their values
_WRAPPING = ("jaxlib", "builtins", "functools")
_CLASS_NOISE = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"})


class _Identity:
    """Compares by identity and keeps its object alive, so that the identity stays unique."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Unequal(_Identity):
    """Equal to no other object, not even to one of the same value."""

    __hash__ = _Identity.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def fingerprint(value: Any, opaque_by_identity: bool = False) -> Hashable:
    """A hashable that is equal only for values of equal behavior.

    Arrays, tables and containers compare by content; JAX arrays (immutable) and libraries by
    identity. An object whose content Python cannot see, such as an open file, equals nothing, not
    even itself, since its content may have changed. Values of equal behavior may have different
    fingerprints, which costs a compilation. What a function reads by way of a library (a file, an
    environment variable) is not seen, see `vijax.runtime.jaxpr_digest`.

    Args:
        value: any object.
        opaque_by_identity: whether objects whose content cannot be seen compare by identity: for
            callers that find out by other means whether the content has changed.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> fingerprint(scaled(2)) == fingerprint(scaled(2)) != fingerprint(scaled(3))
    True
    """
    return _Walk(opaque_by_identity).visit(value)


def fingerprint_text(value: Any) -> str:
    """A fingerprint as text, reproducible in other processes for the same version of the code.

    Objects compared by identity enter by name only, so that two of the same name are not
    distinguished.
    """
    if isinstance(value, _Identity):
        value = value.value
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{getattr(value, '__module__', '')}.{name}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(fingerprint_text, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(fingerprint_text, value)))}}}"
    if isinstance(value, types.CodeType):
        return fingerprint_text((value.co_qualname, value.co_code, value.co_names, value.co_consts))
    return value.__qualname__ if isinstance(value, type) else repr(value)


class _Walk:
    """One traversal; it records visited objects, since references may be cyclic."""

    def __init__(self, opaque_by_identity: bool) -> None:
        self.opaque_by_identity = opaque_by_identity
        # references keep objects alive, so that the id of a temporary is not reused
        self.visited: dict[int, tuple[int, object]] = {}

    def visit(self, value: Any) -> Hashable:
        """The fingerprint of one value."""
        if isinstance(value, _EXACT):
            return (type(value), value)
        if isinstance(value, (float, complex)):  # nan equals nan, 0.0 is not -0.0
            return (type(value), repr(value))
        if isinstance(value, _CONSTANT) or type(value) is object:
            return _Identity(value)
        if id(value) in self.visited:
            return ("again", self.visited[id(value)][0])
        self.visited[id(value)] = (len(self.visited), value)
        for kinds, method in _METHODS:
            if isinstance(value, kinds):
                return method(self, value)
        return self._instance(value)

    def visit_all(self, values: Iterable[Any]) -> tuple[Hashable, ...]:
        """The fingerprints of several values."""
        return tuple(self.visit(value) for value in values)

    def _array(self, value: np.ndarray | np.generic) -> Hashable:
        # of subclasses a memory map has its file, others their attributes, as the mask
        plain = isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap)
        state = None if plain else self._state(value)
        array = np.asarray(value)
        if array.dtype.hasobject:
            return ("objects", array.shape, self.visit(array.tolist()), state)
        digest = hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data).digest()
        return ("array", type(value), array.shape, array.dtype.str, digest, state)

    def _buffer(self, value: Any) -> Hashable:
        try:
            view = memoryview(value)
        except ValueError:  # released
            return self._unknown(value)
        return (type(value), view.format, view.shape, view.tobytes(), self._state(value))

    def _sequence(self, value: Iterable[Any]) -> Hashable:
        return (type(value), self.visit_all(value), self._state(value))

    def _mapping(self, value: Mapping[Any, Any]) -> Hashable:
        parts = self.visit_all(value.keys()), self.visit_all(value.values())
        if type(value) in (dict, types.MappingProxyType):
            return (type(value), parts)
        factory = getattr(value, "default_factory", None)
        return (type(value), parts, self.visit(factory), self._state(value))

    def _set(self, value: Iterable[Any]) -> Hashable:
        return (type(value), frozenset(self.visit_all(value)), self._state(value))

    def _repr(self, value: Any) -> Hashable:
        return (type(value), repr(value), self._state(value))

    def _slice(self, value: slice) -> Hashable:
        return (slice, self.visit_all((value.start, value.stop, value.step)))

    def _pattern(self, value: re.Pattern) -> Hashable:
        return (re.Pattern, value.pattern, value.flags)

    def _reference(self, value: weakref.ref) -> Hashable:
        return (type(value), self.visit(value()))

    def _cell(self, value: types.CellType) -> Hashable:
        return (types.CellType, self.visit(_contents(value)))

    def _context_variable(self, value: contextvars.ContextVar) -> Hashable:
        return (_Identity(value), self.visit(value.get(None)))

    def _builtin(self, value: types.BuiltinFunctionType) -> Hashable:
        owner = value.__self__  # of a method: an object that may change
        if owner is None or isinstance(owner, (types.ModuleType, type)):
            return _Identity(value)
        return (value.__name__, self.visit(owner))

    def _getter(self, value: Any) -> Hashable:
        return (type(value), self.visit(value.__reduce__()[1]))

    def _partial(self, value: functools.partial) -> Hashable:
        return (type(value), self.visit_all((value.func, value.args, value.keywords)))

    def _method(self, value: types.MethodType) -> Hashable:
        return (types.MethodType, self.visit_all((value.__func__, value.__self__)))

    def _property(self, value: property) -> Hashable:
        return (property, self.visit_all((value.fget, value.fset)))

    def _module(self, value: types.ModuleType) -> Hashable:
        return _Identity(value)  # what a function reads from it is visited with the function

    def _class(self, value: type) -> Hashable:
        if _is_library(value.__module__):
            return _Identity(value)
        members = {name: part for name, part in vars(value).items() if name not in _CLASS_NOISE}
        return (value.__qualname__, self.visit_all(value.__bases__), self._mapping(members))

    def _function(self, value: types.FunctionType) -> Hashable:
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        captured = [*cells, value.__defaults__, value.__kwdefaults__]
        scope = value.__globals__
        if not _is_library(scope.get("__name__")):
            names = _names(value.__code__)
            captured += [
                part
                for name in sorted(names & scope.keys())
                for part in _reachable(scope[name], names)
            ]
        return (value.__code__, self.visit_all(captured))

    def _instance(self, value: Any) -> Hashable:
        kind = type(value)
        if kind.__module__.startswith("vijax.") and "__eq__" not in vars(kind):
            return _Identity(value)  # targets and posteriors have a changing cache of programs
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and kind.__module__.split(".")[0] in _WRAPPING:
            return (kind, self.visit(wrapped))  # jitted and cached functions, static methods
        if kind.__module__.split(".")[0] == "jaxlib":
            return _Identity(value)  # immutable
        if not _is_transparent(kind):
            return self._table(value) if _solid_library(kind) in _TABLES else self._unknown(value)
        return (self.visit(kind), self._state(value))

    def _table(self, value: Any) -> Hashable:
        try:
            return (type(value), hashlib.blake2b(pickle.dumps(value, 5)).digest())
        except Exception:  # whatever pickling of a user's objects in it may raise
            return self._unknown(value)

    def _unknown(self, value: Any) -> Hashable:
        """An object whose content cannot be seen: by default equal to nothing, itself included."""
        return _Identity(value) if self.opaque_by_identity else _Unequal(value)

    def _state(self, value: Any) -> Hashable:
        """The fingerprint of an object's attributes, `None` without slots and `__dict__`."""
        names = [name for cls in type(value).__mro__ for name in _slots(cls)]
        slots = [getattr(value, name, None) for name in names]
        attributes = getattr(value, "__dict__", None)
        if not names and attributes is None:
            return None
        return (self.visit_all(slots), self._mapping(attributes or {}))


_METHODS: tuple[tuple[Any, Callable[..., Hashable]], ...] = (
    ((np.ndarray, np.generic), _Walk._array),
    (_BUFFERS, _Walk._buffer),
    ((tuple, list, collections.deque), _Walk._sequence),
    (Mapping, _Walk._mapping),
    ((set, frozenset), _Walk._set),
    (functools.partial, _Walk._partial),
    (types.MethodType, _Walk._method),
    (property, _Walk._property),
    (types.ModuleType, _Walk._module),
    (type, _Walk._class),
    (types.FunctionType, _Walk._function),
    ((types.BuiltinFunctionType, types.MethodWrapperType), _Walk._builtin),
    (_BY_REPR, _Walk._repr),
    (slice, _Walk._slice),
    (re.Pattern, _Walk._pattern),
    (weakref.ref, _Walk._reference),
    (types.CellType, _Walk._cell),
    (contextvars.ContextVar, _Walk._context_variable),
    ((operator.attrgetter, operator.itemgetter, operator.methodcaller), _Walk._getter),
)


def _is_transparent(kind: type) -> bool:
    """Whether instances consist of attributes only, rather than of memory that C code manages.

    As in Python's own check that an object can be pickled: an instance has room for nothing but
    its header, slots, and the references to its attributes and weak references.
    """
    pointer = struct.calcsize("P")
    slots = sum(len(_slots(one)) for one in kind.__mro__)
    pointers = slots + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    size = object.__basicsize__ + pointer * pointers
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= size


def _solid_library(kind: type) -> str:
    """The library of the first class of an object that is not the user's."""
    return next(one.__module__.split(".")[0] for one in kind.__mro__ if _is_library(one.__module__))


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    # private names are mangled
    return tuple(
        f"_{cls.__name__.lstrip('_')}{name}"
        if name.startswith("__") and name[-2:] != "__"
        else name
        for name in slots
        if name not in ("__dict__", "__weakref__")
    )


def _names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in a code object and in its nested functions."""
    nested = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*map(_names, nested))


def _reachable(value: Any, names: set[str]) -> list[Any]:
    """A global and, for a user's module, the members that the code reads, recursively."""
    found, queue = [value], [value]
    while queue:
        module = queue.pop()
        if not isinstance(module, types.ModuleType) or _is_library(module.__name__):
            continue
        inside = vars(module)
        parts = [inside[name] for name in sorted(names & inside.keys())]
        queue += [part for part in parts if not any(part is old for old in found)]
        found += parts
    return found


@functools.cache
def _is_library(name: str | None) -> bool:
    """Whether a module is an installed library rather than the user's code."""
    root = (name or "").split(".")[0]
    if root in _LIBRARIES or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return bool(file) and str(file).startswith(_INSTALLED)
