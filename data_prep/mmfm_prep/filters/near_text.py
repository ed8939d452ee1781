"""Texts that are nearly the same, by MinHash (Broder 1997) with locality-sensitive hashing.

    seen = NearTexts(threshold=0.8)
    seen.remember(0, signature("A dog runs along the beach"))
    seen.find(signature("a dog runs along the  beach."))      # 0

Texts are compared by the share of 3-character pieces that they have in common (Jaccard), in lower
case and with white space folded. Characters, not words: it works where words aren't spaced, and
notices a slip of one letter. Below `SHORT` characters only equal texts are near.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np

from mmfm_prep.errors import PrepError
from mmfm_prep.leaks import normalise

PERMUTATIONS = 128
"""Values of a signature; a similarity of 0.8 is estimated to within 0.035 (standard error)."""

PIECE = 3
SHORT = 12
_SPREAD = np.uint32(0x9E3779B1)  # Knuth's multiplier: the top byte depends on all others
_BY_CHANCE = 1 / 256  # how often two bytes are equal that needn't be
_RECALL = 0.98
_REACH = 64  # where very many texts share a band (a template), the latest are compared


def pieces(text: str) -> set[str]:
    """The 3-character pieces of `text`; all of it where it is short."""
    plain = normalise(text)
    if len(plain) < SHORT:
        return {plain}
    return {plain[i : i + PIECE] for i in range(len(plain) - PIECE + 1)}


def signature(text: str) -> bytes:
    """128 bytes; the share of equal ones at the same place estimates how near two texts are.

    Of each MinHash value one byte is kept (b-bit minwise hashing, Li and König 2010).
    """
    sketch = _empty().copy()
    sketch.update_batch([piece.encode("utf-8", "surrogatepass") for piece in pieces(text)])
    top: np.ndarray[Any, Any] = (sketch.hashvalues * _SPREAD) >> np.uint32(24)
    return top.astype(np.uint8).tobytes()


class NearTexts:
    """The signatures of texts that are no near-duplicate of an earlier one.

    Holds 0.28 to 0.56 KB a text at a threshold of 0.8, half as much again while it grows. A pair
    just at the threshold is looked at with a probability of at least 98 %, a nearer one more
    surely.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold = {threshold} must be above 0 and at most 1")
        self._equal_bytes = threshold * PERMUTATIONS * (1 - _BY_CHANCE) + PERMUTATIONS * _BY_CHANCE
        self._rows = _rows_of_a_band(threshold)
        self._bands = PERMUTATIONS // self._rows
        self._factors = np.random.default_rng(0).integers(1 << 63, size=self._rows, dtype=np.uint64)
        self._factors |= np.uint64(1)
        self._each_band = np.arange(self._bands)
        self._size = 0
        self._allocate(1024)

    def find(self, signature: bytes) -> int | None:
        """The number of the first remembered text at least as near as the threshold."""
        bytes_ = np.frombuffer(signature, np.uint8)
        bucket = self._buckets(bytes_[None])[0]
        near = self._first_near(bytes_, self._heads[self._each_band, bucket])
        return None if near is None else int(self._numbers[near])

    def remember(self, number: int, signature: bytes) -> None:
        bytes_ = np.frombuffer(signature, np.uint8)
        if self._size == len(self._numbers):
            self._grow()
        bucket = self._buckets(bytes_[None])[0]
        self._signatures[self._size] = bytes_
        self._numbers[self._size] = number
        self._next[self._size] = self._heads[self._each_band, bucket]
        self._heads[self._each_band, bucket] = self._size
        self._size += 1

    def _first_near(self, signature: Any, at: Any) -> int | None:
        """Walks the chains of all bands at once. Chains go from the latest text to the first."""
        first: int | None = None
        bands = self._each_band
        for _ in range(_REACH):
            alive = at >= 0
            if not alive.all():
                bands, at = bands[alive], at[alive]
            if not len(at):
                break
            near = at[(self._signatures[at] == signature).sum(1) >= self._equal_bytes]
            if len(near):
                first = min(int(near.min()), first if first is not None else int(near.min()))
            at = self._next[at, bands]
        return first

    def _buckets(self, signatures: Any) -> Any:
        """``[texts, bands]``: the bucket of each band. Equal rows of bytes share it, others may."""
        bands = signatures[:, : self._bands * self._rows].reshape(-1, self._bands, self._rows)
        mixed = (bands.astype(np.uint64) + np.uint64(1)) @ self._factors
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _allocate(self, capacity: int) -> None:
        self._bits = capacity.bit_length() - 1
        self._signatures = np.zeros((capacity, PERMUTATIONS), np.uint8)
        self._numbers = np.zeros(capacity, np.int64)
        self._next = np.zeros((capacity, self._bands), np.int32)
        self._heads = np.full((self._bands, capacity), -1, np.int32)

    def _grow(self) -> None:
        """Twice as much room, and as many buckets: the chains are tied anew."""
        signatures, numbers, n = self._signatures, self._numbers, self._size
        self._allocate(2 * n)
        self._signatures[:n], self._numbers[:n] = signatures, numbers
        for start in range(0, n, 4096):
            rows = np.arange(start, min(start + 4096, n))
            buckets = self._buckets(self._signatures[rows])
            for band in range(self._bands):
                order = np.argsort(buckets[:, band], kind="stable")
                bucket, row = buckets[order, band], rows[order]
                before = self._heads[band, bucket]
                same = bucket[1:] == bucket[:-1]
                before[1:][same] = row[:-1][same]
                self._next[row, band] = before
                last = np.append(~same, True)
                self._heads[band, bucket[last]] = row[last]


def _rows_of_a_band(threshold: float) -> int:
    """The most rows with which a pair at the threshold still shares a band in 98 of 100 cases."""
    equal = threshold + (1 - threshold) * _BY_CHANCE
    for rows in range(PERMUTATIONS, 1, -1):
        if 1 - (1 - equal**rows) ** (PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


@cache
def _empty() -> Any:
    try:
        from datasketch import MinHash
    except ModuleNotFoundError:
        raise PrepError(
            "near-duplicate texts need datasketch: pip install 'mmfm[filters]'"
        ) from None
    # CRC-32 is quick and never the same for two pieces of one length up to four bytes; MinHash
    # mixes it.
    return MinHash(PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32")
