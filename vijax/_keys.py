"""Random keys: whatever a user may hand over becomes one typed JAX key."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


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
