"""Threefry-2x32, and many standard normals from it.

JAX computes the generator with a loop over rounds on CPUs, which passes over memory at each round,
and throws away one of the two words of a block, so that it may be partitioned among devices. All
rounds in one expression and both words are four times as fast for half a million numbers, and take
no longer to compile: `python -m bench networks FOLDER --only steps`.

Source: Parallel Random Numbers: As Easy as 1, 2, 3, Salmon, Moraes, Dror and Shaw, 2011.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MANTISSA = 23  # bits of a number in single precision


def threefry(key0: Any, key1: Any, x0: Any, x1: Any, word: Any = lambda x: x) -> tuple[Any, Any]:
    """Blocks of 20 rounds.

    Args:
        key0: first word of the key, a `uint32` array, or an int.
        key1: second word.
        x0: first word of the counter, of shapes that broadcast.
        x1: second word.
        word: for ints, their last 32 bits.
    """
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = word(x0 + key0), word(x1 + key1)
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = word(x0 + x1)
            x1 = word(x1 << rotation | x1 >> 32 - rotation) ^ x0
        x0, x1 = word(x0 + keys[(i + 1) % 3]), word(x1 + keys[(i + 2) % 3] + i + 1)
    return x0, x1


def threefry_normals(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normals in single precision, fewer than 2^32, of a Threefry key."""
    size = math.prod(shape)
    key0, key1 = jax.random.key_data(key)
    counts = jax.lax.iota(jnp.uint32, (size + 1) // 2)
    words = threefry(key0, key1, jnp.zeros_like(counts), counts)
    return jnp.concatenate([_normal(word) for word in words])[:size].reshape(shape)


def _normal(word: Array) -> Array:
    """By inversion; the uniform numbers are the centers of 2^23 intervals, so never 0 or 1."""
    steps = (word >> (32 - _MANTISSA)).astype(jnp.float32)
    symmetric = steps * 2.0 ** (1 - _MANTISSA) - (1 - 2.0**-_MANTISSA)
    return jax.lax.erf_inv(symmetric) * np.float32(math.sqrt(2))
