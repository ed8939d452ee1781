"""Which pictures go into the shards, and which look alike.

mmfm data make image_folder photos data/photos filters.image.min_side=64 filters.image.max_aspect=3
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from mmfm_prep.errors import PrepError
from mmfm_prep.filters import Unwanted

HASH_BITS = 64
MOST_PIXELS = 178_956_970  # what Pillow opens


@dataclass(kw_only=True)
class ImageFilter:
    """`min_side`: the fewest pixels of the shorter side, `max_pixels`: the most of a picture, as it
    is found. `max_aspect`: the most that the longer side may be of the shorter.
    """

    min_side: int | None = None
    max_pixels: int = 64_000_000
    max_aspect: float | None = None

    def __post_init__(self) -> None:
        if self.min_side is not None and self.min_side < 1:
            raise ValueError(f"min_side = {self.min_side} must be at least 1")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels = {self.max_pixels} must be 1 to {MOST_PIXELS}")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise ValueError(f"max_aspect = {self.max_aspect} must be at least 1, which is square")

    def check(self, size: tuple[int, int]) -> None:
        """`Unwanted` where a picture of `size` (width, height) is not to be kept."""
        if self.min_side is not None and min(size) < self.min_side:
            raise Unwanted(f"picture smaller than {self.min_side} pixels")
        if size[0] * size[1] > self.max_pixels:
            raise self.too_large()
        if self.max_aspect is not None and max(size) > self.max_aspect * min(size):
            raise Unwanted(f"picture longer than {self.max_aspect:g} times its other side")

    def too_large(self) -> Unwanted:
        """The refusal of a picture of too many pixels."""
        return Unwanted(f"picture of more than {self.max_pixels:,} pixels")


def signature(picture: Image.Image) -> bytes | None:
    """The perceptual hash of an RGB or grey `picture`, 64 bits of its coarse shape (pHash, Zauner
    2010); None for a plain one, whose bits are noise.
    """
    try:
        import imagehash
    except ModuleNotFoundError:
        raise PrepError("near duplicates need imagehash: pip install 'mmfm[filters]'") from None
    grey = picture.convert("L")
    low, high = grey.getextrema()
    if not isinstance(low, int) or not isinstance(high, int) or high - low < 8:
        return None
    return bytes(np.packbits(imagehash.phash(grey).hash))


class NearImages:
    """Signatures of pictures, to find the first that differs in at most `distance` bits.

    Of `distance` + 1 parts of 64 bits two such hashes share one at least, so those with an equal
    part are all that must be compared (Norouzi et al. 2012). About 0.5 kB for each picture.
    """

    def __init__(self, distance: int) -> None:
        if not 0 <= distance <= 16:
            raise ValueError(f"near duplicates of pictures: {distance} bits must be 0 to 16")
        self.distance = distance
        ends = [HASH_BITS * i // (distance + 1) for i in range(distance + 2)]
        self._parts = [(low, (1 << high - low) - 1) for low, high in pairwise(ends)]
        self._tables: list[dict[int, list[tuple[int, int]]]] = [{} for _ in self._parts]

    def find(self, signature: bytes) -> int | None:
        """The number of the first remembered picture that is near."""
        bits = int.from_bytes(signature, "big")
        near = [
            other
            for table, (low, mask) in zip(self._tables, self._parts, strict=True)
            for other, there in table.get(bits >> low & mask, ())
            if (bits ^ there).bit_count() <= self.distance
        ]
        return min(near, default=None)

    def remember(self, number: int, signature: bytes) -> None:
        bits = int.from_bytes(signature, "big")
        for table, (low, mask) in zip(self._tables, self._parts, strict=True):
            table.setdefault(bits >> low & mask, []).append((number, bits))
