"""Pseudo-random permutations of a range, evaluated at any positions in time linear in their number.

A Feistel network permutes pairs of integers by alternately adding a keyed hash of one to the other,
modulo its range. The pairs index the cells of a table slightly larger than the range; an integer
beyond the range is permuted again until it is inside (cycle walking), which yields a permutation of
the range. Sources: How to construct pseudorandom permutations from pseudorandom
functions, Luby, Rackoff, 1988; Ciphers with arbitrary finite domains, Black, Rogaway, 2002.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_ROUNDS = 6  # after four, positions in adjacent columns are still correlated
SHUFFLE_LIMIT = 2**16  # up to this size all rows are shuffled: small tables are far from uniform
_BLOCK = 2**14  # integers permuted at a time, to fit the processor's cache
_HALF = np.uint32(16)


def permute(seed: tuple[int, ...], size: int, positions: np.ndarray) -> np.ndarray:
    """The entries of a permutation of `range(size)` at `positions`, both `(num,)`."""
    if size <= SHUFFLE_LIMIT:
        return _shuffled(seed, size)[positions]
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS)
    out = positions.astype(np.uint32)
    for first in range(0, len(out), _BLOCK):
        numbers = _feistel(out[first : first + _BLOCK], keys, size)
        beyond = np.flatnonzero(numbers >= size)
        while beyond.size:
            numbers[beyond] = _feistel(numbers[beyond], keys, size)
            beyond = beyond[numbers[beyond] >= size]
        out[first : first + _BLOCK] = numbers
    return out.astype(np.int32)


@functools.lru_cache(maxsize=8)
def _shuffled(seed: tuple[int, ...], size: int) -> np.ndarray:
    rows = np.arange(size, dtype=np.int32)
    np.random.default_rng(np.random.SeedSequence(seed)).shuffle(rows)
    return rows


def _feistel(numbers: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """A permutation of the cells of the smallest nearly square table of at least `size` cells."""
    height = math.isqrt(size - 1) + 1  # at most 2^16, so that products below have 32 bits
    lengths = np.array([height, -(-size // height)], np.uint32)
    first = numbers // lengths[1]
    pair, scratch = [first, numbers - first * lengths[1]], np.empty_like(numbers)
    for turn, key in enumerate(keys):
        changed, length = pair[turn % 2], lengths[turn % 2]
        _hash(pair[1 - turn % 2], key, scratch)
        np.right_shift(scratch, _HALF, out=scratch)
        np.multiply(scratch, length, out=scratch)
        np.right_shift(scratch, _HALF, out=scratch)  # below `length`, uniform up to 2^-16
        np.add(changed, scratch, out=changed)
        np.subtract(changed, length, out=scratch)  # wraps around to a large number if negative
        np.minimum(changed, scratch, out=changed)
    return pair[0] * lengths[1] + pair[1]


def _hash(numbers: np.ndarray, key: np.uint32, out: np.ndarray) -> None:
    """A 32-bit hash, best in its upper bits; multipliers of Knuth and MurmurHash3 (Appleby)."""
    np.bitwise_xor(numbers, key, out=out)
    np.multiply(out, np.uint32(0x9E3779B1), out=out)
    np.bitwise_xor(out, out >> np.uint32(15), out=out)
    np.multiply(out, np.uint32(0x85EBCA6B), out=out)
