"""Pseudo-random permutations of a range, any places of one for what these places cost.

A Feistel network permutes pairs of numbers: it adds a keyed hash of one to the other, modulo its
range, in turns. The pairs are a row and a column of a table that is hardly larger than the range;
a number beyond it is permuted again until it falls inside (cycle walking), so that what is left is
a permutation of the range. Sources: How to construct pseudorandom permutations from pseudorandom
functions, Luby, Rackoff, 1988; Ciphers with arbitrary finite domains, Black, Rogaway, 2002.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_ROUNDS = 6  # after four, places a column apart still have rows that correlate
SHUFFLE_LIMIT = 2**16  # rows up to which all are shuffled: small tables are far from uniform
_BLOCK = 2**14  # numbers that are permuted together, in the processor's cache
_HALF = np.uint32(16)


def permute(seed: tuple[int, ...], size: int, places: np.ndarray) -> np.ndarray:
    """What stands at some places of a permutation of `range(size)`, `(num,)` as these are."""
    if size <= SHUFFLE_LIMIT:
        return _shuffled(seed, size)[places]
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS)
    out = places.astype(np.uint32)
    for first in range(0, len(out), _BLOCK):
        numbers = _mixed(out[first : first + _BLOCK], keys, size)
        beyond = np.flatnonzero(numbers >= size)
        while beyond.size:
            numbers[beyond] = _mixed(numbers[beyond], keys, size)
            beyond = beyond[numbers[beyond] >= size]
        out[first : first + _BLOCK] = numbers
    return out.astype(np.int32)


@functools.lru_cache(maxsize=8)
def _shuffled(seed: tuple[int, ...], size: int) -> np.ndarray:
    rows = np.arange(size, dtype=np.int32)
    np.random.default_rng(np.random.SeedSequence(seed)).shuffle(rows)
    return rows


def _mixed(numbers: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """A permutation of the cells of the smallest table, about square, that has room for all."""
    height = math.isqrt(size - 1) + 1  # at most 2^16, so that products below have 32 bits
    lengths = np.array([height, -(-size // height)], np.uint32)
    first = numbers // lengths[1]
    pair, scratch = [first, numbers - first * lengths[1]], np.empty_like(numbers)
    for turn, key in enumerate(keys):
        changed, length = pair[turn % 2], lengths[turn % 2]
        _hash(pair[1 - turn % 2], key, scratch)
        np.right_shift(scratch, _HALF, out=scratch)
        np.multiply(scratch, length, out=scratch)
        np.right_shift(scratch, _HALF, out=scratch)  # below `length`, evenly but for 2^-16
        np.add(changed, scratch, out=changed)
        np.subtract(changed, length, out=scratch)  # wraps round to a huge number if too small
        np.minimum(changed, scratch, out=changed)
    return pair[0] * lengths[1] + pair[1]


def _hash(numbers: np.ndarray, key: np.uint32, out: np.ndarray) -> None:
    """Of 32 bits, the upper ones the best; multipliers of MurmurHash3 (Appleby) and Knuth."""
    np.bitwise_xor(numbers, key, out=out)
    np.multiply(out, np.uint32(0x9E3779B1), out=out)
    np.bitwise_xor(out, out >> np.uint32(15), out=out)
    np.multiply(out, np.uint32(0x85EBCA6B), out=out)
