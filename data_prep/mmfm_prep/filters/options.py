"""The options ``filters.…`` of every source that reads files of the user's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from mmfm_prep.filters.audio import AudioFilter, NearSounds
from mmfm_prep.filters.image import ImageFilter, NearImages
from mmfm_prep.filters.near_text import NearTexts
from mmfm_prep.filters.similarity import Similarity
from mmfm_prep.filters.text import TextFilter

Kind = Literal["image", "audio", "text"]
KINDS: tuple[Kind, ...] = ("image", "audio", "text")


class NearIndex(Protocol):
    """Signatures of what was seen: `find` gives the number of the first one that is near."""

    def find(self, signature: bytes, /) -> int | None: ...

    def remember(self, number: int, signature: bytes, /) -> None: ...


@dataclass(kw_only=True)
class Near:
    """What is nearly the same. `image`: perceptual hashes that differ in at most so many of 64 bits
    (6 finds resized and recompressed pictures); `audio`: the share of fingerprint bits that may
    differ (0.35); `text`: the share of 3-character pieces that first texts have in common (0.8).
    """

    image: int | None = None
    audio: float | None = None
    text: float | None = None

    def __post_init__(self) -> None:
        self.indexes()

    def indexes(self) -> dict[Kind, NearIndex]:
        """An empty index for each kind that is asked for. ValueError for a wrong threshold."""
        found: dict[Kind, NearIndex] = {}
        if self.image is not None:
            found["image"] = NearImages(self.image)
        if self.audio is not None:
            found["audio"] = NearSounds(self.audio)
        if self.text is not None:
            found["text"] = NearTexts(self.text)
        return found


@dataclass(kw_only=True)
class Filters:
    """What may go into the shards. A text that may not is left out of its sample, and a sample
    whose texts are all left out is, too.

    `duplicates`: of samples whose picture, sound or first text is equal (pixels, waveform; case and
    white space of texts don't count), one stays; `near`: and of those that are nearly so. Of a
    held-out split's and a train split's the former stays, else the first.
    """

    image: ImageFilter = field(default_factory=ImageFilter)
    audio: AudioFilter = field(default_factory=AudioFilter)
    text: TextFilter = field(default_factory=TextFilter)
    similarity: Similarity = field(default_factory=Similarity)
    duplicates: list[Kind] = field(default_factory=list)
    near: Near = field(default_factory=Near)
