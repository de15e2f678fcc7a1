"""A digest of a traced program: equal only for programs that compute the same.

A fingerprint of a function sees its code and what it captures, but not what it reads by way of
libraries: a file, an environment variable, the clock. The program that results from tracing the
function contains whatever was read, as constants.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vijax.runtime.device_layout import on_host

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)


def jaxpr_digest(closed: Any, *values: Any) -> str:
    """A digest of a closed jaxpr: its operations, their parameters, and all constants.

    Args:
        closed: the program.
        *values: further values that distinguish it; those that are traced enter by their type.
    """
    found = hashlib.blake2b(digest_size=16)
    _add(found, closed)
    for value in values:
        _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    for part in _parts(value):
        found.update(part)
        found.update(b"\0")


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes that a program, or a parameter of an operation, consists of."""
    if isinstance(value, core.ClosedJaxpr):
        yield from _parts(value.jaxpr)
        for const in value.consts:
            yield from _parts(const)
    elif isinstance(value, core.Jaxpr):
        yield from _equations(value)
    elif isinstance(value, jax.core.Tracer):
        yield str(value.aval).encode()
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        yield from _array(value)
    elif isinstance(value, (tuple, list)):
        yield f"{type(value).__name__} {len(value)}".encode()
        for part in value:
            yield from _parts(part)
    elif isinstance(value, dict):
        yield from _parts(list(value.items()))
    else:
        yield _text(value)


def _equations(jaxpr: Any) -> Iterator[bytes]:
    numbers: dict[Any, int] = {}

    def names(atoms: Any) -> Iterator[bytes]:
        for atom in atoms:
            if isinstance(atom, core.Literal):
                yield from _parts(atom.val)
                yield _aval(atom.aval)
            else:
                yield f"{numbers.setdefault(atom, len(numbers))}".encode()
                yield _aval(atom.aval)

    yield from names([*jaxpr.constvars, *jaxpr.invars])
    for equation in jaxpr.eqns:
        yield equation.primitive.name.encode()
        yield from names(equation.invars)
        for name, part in equation.params.items():
            yield name.encode()
            yield from _parts(part)
        yield from names(equation.outvars)
    yield from names(jaxpr.outvars)


def _array(value: Any) -> Iterator[bytes]:
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        yield str(value.dtype).encode()
        value = jax.random.key_data(value)
    array = np.asarray(on_host(value) if isinstance(value, jax.Array) else value)
    yield f"{array.dtype} {array.shape}".encode()
    yield repr(array.tolist()).encode() if array.dtype.hasobject else _digest(array)


def _digest(array: np.ndarray) -> bytes:
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return hashlib.blake2b(array.reshape(-1).view(np.uint8).data, digest_size=16).digest()


def _text(value: Any) -> bytes:
    """The representation of a value without addresses, which differ between equal functions."""
    return _ADDRESS.sub("", repr(value)).encode()


@functools.lru_cache(4096)
def _aval(aval: Any) -> bytes:
    return repr(aval).encode()
