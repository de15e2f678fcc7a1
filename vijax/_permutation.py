"""Pseudo-random permutations of a range, any part of one for what that part costs.

A Feistel network permutes the numbers of so many bits: it splits them into halves and adds a keyed
hash of one half to the other, in turns. Numbers beyond the range are permuted again until they fall
into it (cycle walking), so that what is left is a permutation of the range. Sources: How to
construct pseudorandom permutations from pseudorandom functions, Luby, Rackoff, 1988; Ciphers with
arbitrary finite domains, Black, Rogaway, 2002.
"""

from __future__ import annotations

import functools

import numpy as np

_ROUNDS = 6
_SHUFFLED = 2**16  # rows up to which all are shuffled: networks of few bits are far from uniform
_BLOCK = 2**13  # numbers that are permuted together, in the processor's cache


def permuted(seed: tuple[int, ...], size: int, start: int, stop: int) -> np.ndarray:
    """Places `start..stop-1` of a permutation of `range(size)`, `(stop - start,)`."""
    if size <= _SHUFFLED:
        return _shuffled(seed, size)[start:stop]
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS)
    out = np.arange(start, stop, dtype=np.uint32)
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
    """A permutation of the numbers of as many bits as `size - 1` has."""
    bits = (size - 1).bit_length()
    low = np.uint32(bits // 2)
    widths = (low, np.uint32(bits) - low)
    halves = [numbers & np.uint32((1 << int(low)) - 1), numbers >> low]
    for turn, key in enumerate(keys):
        to = turn % 2
        halves[to] ^= _hash(halves[1 - to], key) >> np.uint32(32 - widths[to])
    return halves[1] << low | halves[0]


def _hash(numbers: np.ndarray, key: np.uint32) -> np.ndarray:
    """Of 32 bits, the upper ones the best; multipliers of MurmurHash3, Appleby, 2011."""
    hashed = (numbers ^ key) * np.uint32(0x85EBCA6B)
    hashed ^= hashed >> np.uint32(15)
    hashed *= np.uint32(0xC2B2AE35)
    return hashed ^ hashed >> np.uint32(16)
