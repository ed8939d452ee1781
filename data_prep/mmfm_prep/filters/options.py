"""The options ``filters.…`` of every source that reads files of the user's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmfm_prep.filters.audio import AudioFilter, NearSounds
from mmfm_prep.filters.image import ImageFilter, NearImages

Kind = Literal["image", "audio", "text"]
KINDS: tuple[Kind, ...] = ("image", "audio", "text")


@dataclass(kw_only=True)
class Near:
    """What is nearly the same. `image`: perceptual hashes that differ in at most so many of 64 bits
    (6 finds resized and recompressed pictures); `audio`: the share of fingerprint bits that may
    differ (0.35).
    """

    image: int | None = None
    audio: float | None = None

    def __post_init__(self) -> None:
        if self.image is not None:
            NearImages(self.image)
        if self.audio is not None:
            NearSounds(self.audio)


@dataclass(kw_only=True)
class Filters:
    """What may go into the shards.

    `duplicates`: of samples whose picture, sound or first text is equal (pixels, waveform; case and
    white space of texts don't count), one stays; `near`: and of those that are nearly so. Of a
    held-out split's and a train split's the former stays, else the first.
    """

    image: ImageFilter = field(default_factory=ImageFilter)
    audio: AudioFilter = field(default_factory=AudioFilter)
    duplicates: list[Kind] = field(default_factory=list)
    near: Near = field(default_factory=Near)
