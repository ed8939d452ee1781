"""Permutations as pure functions of an integer key, the same on every machine and numpy version.

`shuffle(key, n)` is a whole permutation as an array; `permute(key, n, i)` is one element of a
permutation in constant time and memory, for orders that must be sought rather than replayed.
`hash_ints` makes the keys. numpy's own generators are not used: their streams may change between
releases, which would change the order of a run that is resumed.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_TABLE_LIMIT = 1024
"""Up to this length `permute` keeps tables (4,096 of 4 KiB: 16 MiB); above, it is a cipher."""
_ROUNDS = 8


def hash_ints(*values: int) -> int:
    """A uniform unsigned 64-bit hash of integers, each taken modulo 2^64; their order matters."""
    packed = struct.pack(f"<{len(values)}Q", *(v & _MASK for v in values))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def _mix(x: int) -> int:
    """splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014)."""
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def shuffle(key: int, n: int) -> NDArray[np.int64]:
    """The permutation of 0..n-1 that sorts n splitmix64 outputs: int64 [n]."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(key & _MASK)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2)
    # Stable, so that equal hashes (one pair in 2^64) can't depend on the sorting algorithm.
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable").astype(np.int64)


@lru_cache(maxsize=4096)
def _table(key: int, n: int) -> NDArray[np.int32]:
    return shuffle(key, n).astype(np.int32)


def permute(key: int, n: int, i: int) -> int:
    """Element `i` of the permutation of 0..n-1 that `key` names, 0 <= i < n.

    A short permutation is a table. A long one is a Feistel network on the smallest power of two
    that holds n, walked until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002): less than two walks on average.
    """
    assert 0 <= i < n, (i, n)
    if n <= _TABLE_LIMIT:
        return int(_table(key, n)[i])
    bits = (n - 1).bit_length()
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    while True:
        high, low = i >> low_bits, i & low_mask
        for round_no in range(0, _ROUNDS, 2):
            # The halves may differ by a bit, so they are changed in turn instead of being swapped.
            high ^= _mix((key + (low << 8) * _GAMMA + round_no) & _MASK) & high_mask
            low ^= _mix((key + (high << 8) * _GAMMA + round_no + 1) & _MASK) & low_mask
        i = high << low_bits | low
        if i < n:
            return i
