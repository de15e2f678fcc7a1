"""Random keys: conversion of seeds and legacy keys to typed JAX keys.

On the host, keys are computed without JAX functions, whose compilation would take a sixth of the
total time of a small fit.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.runtime.threefry import threefry, threefry_normals

_LARGE = 2**15  # normals from which their time matters
_FAST_ELEMENTS = 2**19  # below this size compiling threefry costs more than it saves
_THREEFRY = "threefry2x32"
_MASK = 2**32 - 1

RngKey: TypeAlias = int | Array  # an int, a typed key or a legacy key; see `as_key`


def draw_keys(key: Array, num_draws: int, dim: int) -> Array:
    """Keys for a block of draws, inside a program; small blocks use a generator that compiles fast.

    XLA takes about a second to compile threefry for a matrix, and a third of that for its own
    generator, which however runs about seven times slower on a CPU.
    """
    if num_draws * dim <= _FAST_ELEMENTS:
        data = jnp.ravel(jax.random.key_data(key))[:2]
        key = jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="unsafe_rbg")
    return jax.random.split(key, num_draws)


class Normals(NamedTuple):
    """Standard normals `(num,)`, passed in place of a key."""

    values: Array


def normals(key: Array | Normals, shape: tuple[int, ...], dtype: Any) -> Array:
    """Standard normals from a key, or those that were passed in its place."""
    if isinstance(key, Normals):
        return key.values.reshape(shape).astype(dtype)
    single = jnp.dtype(dtype) == jnp.float32
    if single and _LARGE <= math.prod(shape) <= _MASK and _is_threefry(key):
        return threefry_normals(key, shape)
    return jax.random.normal(key, shape, dtype)


class OffsetKey(NamedTuple):
    """One of many keys, from which keys with a number are derived by one hash for all of them.

    Threefry is designed for keys that are counted: keys that differ in a single bit give
    independent numbers. Source: Parallel Random Numbers: As Easy as 1, 2, 3, Salmon, Moraes, Dror,
    Shaw, 2011.

    Attributes:
        key: what all have in common, a Threefry key.
        offset: two words, `(2,)`, different for each.
    """

    key: Array
    offset: Array


def numbered_key(key: Array | OffsetKey, number: int) -> Array:
    """A key for a number, inside a program."""
    if not isinstance(key, OffsetKey):
        return jax.random.fold_in(key, number)
    words = jax.random.key_data(jax.random.fold_in(key.key, number))
    return jax.random.wrap_key_data(words ^ key.offset, impl=_THREEFRY)


def rejection_key(key: Array) -> Array:
    """A threefry key derived from a key of any implementation, for rejection sampling.

    Under `vmap` XLA's own generator derives the numbers of all draws from the first key. Once that
    draw is accepted, its key no longer changes, and the others are proposed the same numbers
    without end.
    """
    return jax.random.wrap_key_data(jnp.ravel(jax.random.key_data(key))[:2], impl=_THREEFRY)


def as_key(rng_key: Any) -> Array:
    """A typed key from an int, a typed key or a legacy `uint32` key.

    Raises:
        TypeError: it is of another kind.
        ValueError: an int has more than the 64 bits of a key.
    """
    if isinstance(rng_key, jax.Array) or hasattr(rng_key, "dtype"):
        if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key) and rng_key.shape == ():
            return rng_key
        if rng_key.dtype == jnp.uint32 and rng_key.shape == (2,):
            return jax.random.wrap_key_data(jnp.asarray(rng_key))
    try:
        seed = operator.index(rng_key)
    except TypeError:
        shape = getattr(rng_key, "shape", None)
        raise TypeError(
            "rng_key: expected an int, jax.random.key(seed) or a legacy uint32 key of shape (2,), "
            f"got {type(rng_key).__name__}" + ("." if shape is None else f" of shape {shape}.")
        ) from None
    return _from_seed(seed)


def fold_in(key: Array, number: int) -> Array:
    """`jax.random.fold_in(key, number)`, bit for bit, for a concrete key and `number >= 0`."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, number)
    first, second = (int(word) for word in np.asarray(jax.random.key_data(key)))
    return _wrap(*threefry(first, second, 0, number, lambda x: x & _MASK))


def host_rng(key: Array) -> np.random.Generator:
    """A NumPy generator seeded by a key."""
    return np.random.default_rng(np.ravel(jax.random.key_data(key)).astype(np.uint32))


def key_words(key: Array) -> tuple[int, int]:
    """Two words of a key, for `rng_of_words`: all of a Threefry key."""
    first, second = np.ravel(np.asarray(jax.random.key_data(key))).tolist()[:2]
    return first, second


def folded_words(words: tuple[int, int], number: int) -> tuple[int, int]:
    """The words of `fold_in(key, number)`."""
    return threefry(*words, 0, number, lambda x: x & _MASK)


def rng_of_words(words: tuple[int, int], *numbers: int) -> np.random.Generator:
    """The generator of a key with these words, after these numbers are folded in."""
    for number in numbers:
        words = folded_words(words, number)
    return np.random.default_rng(np.array(words, np.uint32))


def _from_seed(seed: int) -> Array:
    """`jax.random.key(seed)`, bit for bit, of all 64 bits also in single precision."""
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    # other generators take the bits of the default integer
    least, most = (-(2**63), 2**63 - 1) if default == _THREEFRY else (0, _MASK)
    if not least <= seed <= most:
        raise ValueError(
            f"rng_key: expected an int from {least} to {most}, so that different ones give "
            f"different keys, got {seed}. Use another one, or a key of jax.random."
        )
    return _wrap(seed >> 32 & _MASK, seed & _MASK) if default == _THREEFRY else jax.random.key(seed)


def _is_threefry(key: Array) -> bool:
    return str(jax.random.key_impl(key)) == _THREEFRY


def _wrap(first: int, second: int) -> Array:
    words = jax.device_put(np.array([first, second], np.uint32))
    return jax.random.wrap_key_data(words, impl=_THREEFRY)
