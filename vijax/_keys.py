"""Random keys: whatever a user may hand over becomes one typed JAX key."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_FAST_ELEMENTS = 2**19  # numbers up to which compiling threefry costs more than it saves


def draw_keys(key: Array, num_draws: int, dim: int) -> Array:
    """Keys for a block of draws, inside a program; those of small blocks compile fast.

    XLA takes about a second to compile threefry for a matrix of numbers, a third of that for its
    own generator, which in turn is some seven times slower to run on a CPU.
    """
    if num_draws * dim <= _FAST_ELEMENTS:
        data = jnp.ravel(jax.random.key_data(key))[:2]
        key = jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="unsafe_rbg")
    return jax.random.split(key, num_draws)


def as_key(rng_key: Any) -> Array:
    """A typed key from an int, a typed key or a legacy `uint32` key.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(rng_key, jax.Array) or hasattr(rng_key, "dtype"):
        if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key) and rng_key.shape == ():
            return rng_key
        if rng_key.dtype == jnp.uint32 and rng_key.shape == (2,):
            return jax.random.wrap_key_data(jnp.asarray(rng_key))
    try:
        return jax.random.key(operator.index(rng_key))
    except TypeError:
        shape = getattr(rng_key, "shape", None)
        raise TypeError(
            "rng_key: expected an int, jax.random.key(seed) or a legacy uint32 key of shape (2,), "
            f"got {type(rng_key).__name__}" + ("." if shape is None else f" of shape {shape}.")
        ) from None
