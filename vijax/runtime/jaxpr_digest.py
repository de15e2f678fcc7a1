"""A digest of a traced program: equal only for programs that compute the same.

A fingerprint of a function sees its code and what it captures, but not what it reads by way of
libraries: a file, an environment variable, the clock. The program that results from tracing the
function contains whatever was read, as constants.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from vijax.runtime.device_layout import on_host
from vijax.runtime.fingerprint import fingerprint, fingerprint_text

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)


def jaxpr_digest(closed: Any, *values: Any) -> str:
    """A digest of a closed jaxpr: its operations, their parameters, and all constants.

    It is the same in another process: the order of independent operations and of the inputs of
    loops, which depends on the hashes of strings, does not count.

    Args:
        closed: the program.
        *values: further values that distinguish it; those that are traced enter by their type.
    """
    walk = _Walk([])
    inputs = [_hash(i, _aval(var.aval)) for i, var in enumerate(closed.jaxpr.invars)]
    outputs = walk.run(closed, inputs)
    return _hash(*sorted(walk.operations), "outputs", *outputs, *_parts(values)).hex()


class _Walk(NamedTuple):
    """One pass over a program.

    A variable has the hash of the operation that computes it, which contains those of its inputs.

    Attributes:
        operations: the hashes of all operations so far, inner programs included.
    """

    operations: list[bytes]

    def run(self, program: Any, inputs: Sequence[bytes]) -> list[bytes]:
        """The hashes of the outputs of a program, given those of its inputs."""
        jaxpr, consts = program, []
        if isinstance(program, core.ClosedJaxpr):
            jaxpr, consts = program.jaxpr, [_hash(*_parts(const)) for const in program.consts]
        known = dict(zip(jaxpr.constvars, consts, strict=False))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def look_up(atom: Any) -> bytes:
            if isinstance(atom, core.Literal):
                return _hash(*_parts(atom.val), _aval(atom.aval))
            return known.get(atom, b"")

        for equation in jaxpr.eqns:
            found = self._operation(equation, [look_up(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _operation(self, equation: Any, inputs: list[bytes]) -> list[bytes]:
        """The hashes of the outputs of an operation."""
        name, text, outputs = equation.primitive.name, [], []
        for key, value in sorted(equation.params.items()):
            if key == "callback":  # Python code that the program calls
                value = fingerprint_text(fingerprint(value))
            programs = [value] if isinstance(value, _JAXPRS) else value
            if isinstance(programs, (tuple, list)) and any(
                isinstance(one, _JAXPRS) for one in programs
            ):
                found = [self.run(one, _inputs_of(equation, key, one, inputs)) for one in programs]
                outputs = [_hash(*ways) for ways in zip(*found, strict=True)]
                text += [key, len(programs)]
            else:
                text += [key, *_parts(value)]
        # the inputs of an inner program are in no certain order
        own = _hash(name, *(sorted(inputs) if outputs else inputs), *text)
        self.operations.append(own)
        if len(outputs) == len(equation.outvars):
            return [_hash(own, output) for output in outputs]
        return [_hash(own, i, _aval(var.aval)) for i, var in enumerate(equation.outvars)]


def _inputs_of(equation: Any, key: str, program: Any, inputs: list[bytes]) -> list[bytes]:
    """The inputs of an operation that are those of an inner program of it."""
    count = len(getattr(program, "jaxpr", program).invars)
    if equation.primitive.name == "cond":
        inputs = inputs[1:]
    if equation.primitive.name == "while":
        first, second = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        own = inputs[:first] if key == "cond_jaxpr" else inputs[first : first + second]
        inputs = [*own, *inputs[first + second :]]
    return inputs if len(inputs) == count else [_hash(key, i) for i in range(count)]


def _hash(*parts: Any) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        found.update(len(text).to_bytes(8, "little"))
        found.update(text)
    return found.digest()


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes of a constant or of a parameter of an operation."""
    if isinstance(value, jax.core.Tracer):
        yield str(value.aval).encode()
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        yield from _array(value)
    elif isinstance(value, dict):
        yield from _parts(list(value.items()))
    elif type(value) in (tuple, list):
        yield f"{type(value).__name__} {len(value)}".encode()
        for part in value:
            yield from _parts(part)
    else:
        yield _text(value)


def _array(value: Any) -> Iterator[bytes]:
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        yield str(value.dtype).encode()
        value = jax.random.key_data(value)
    array = np.asarray(on_host(value) if isinstance(value, jax.Array) else value)
    yield f"{array.dtype} {array.shape}".encode()
    if array.dtype.hasobject:
        yield repr(array.tolist()).encode()
    else:
        flat = np.ascontiguousarray(array).reshape(-1)
        yield hashlib.blake2b(flat.view(np.uint8).data, digest_size=16).digest()


def _text(value: Any) -> bytes:
    """A parameter as text that is the same in another process.

    Functions enter by name: what they compute is in the programs that stand beside them.
    """
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__).encode()
    if isinstance(value, frozenset):
        return repr(sorted(map(repr, value))).encode()
    return _ADDRESS.sub("", repr(value)).encode()


@functools.lru_cache(4096)
def _aval(aval: Any) -> bytes:
    return repr(aval).encode()
