"""One sample on its way into a shard: encoded bytes and metadata, not yet tensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from mmfm_prep.errors import PrepError

Texts = dict[str, list[str]]
"""Language code ▶ texts in it. The first text of the first language is the one that evaluation
reads.
"""

IMAGE_ENDINGS = ("png", "jpg", "webp")
AUDIO_ENDINGS = ("flac", "wav", "ogg")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,96}")


def all_texts(texts: Texts | None) -> list[str]:
    """The texts of all languages, in order."""
    return [text for phrases in (texts or {}).values() for text in phrases]


@dataclass(kw_only=True)
class Sample:
    """What `Source.samples` yields.

    `key` is the file stem in the shard (letters, digits, ``_`` and ``-``), unique in its split.
    `id` is unique in the dataset and stays with the sample through to the results. Samples with
    equal `group` mean the same thing. `history`: ids of samples, in the order in which somebody
    chose them. `labels` maps a field to a class name. `meta` is further metadata, plain JSON.
    `digests`: by kind what stands for what is seen, heard or read, where more than the bytes of the
    files is known of that; they aren't written.
    """

    key: str
    id: str
    group: str
    split: str
    texts: Texts | None = None
    image: bytes | None = None
    image_ending: str = "png"
    audio: bytes | None = None
    audio_ending: str = "flac"
    history: list[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise PrepError(
                f"sample {self.id!r}: key {self.key!r} must be 1-96 letters, digits, '_' or '-'"
            )
        if self.image_ending not in IMAGE_ENDINGS or self.audio_ending not in AUDIO_ENDINGS:
            raise PrepError(
                f"sample {self.id!r}: endings {self.image_ending!r}, {self.audio_ending!r} must "
                f"be among {', '.join(IMAGE_ENDINGS)} and {', '.join(AUDIO_ENDINGS)}"
            )

    @property
    def modality_set(self) -> str:
        """The sorted names of what the sample has, joined by ``+``: ``audio+image+text``."""
        present = {
            "audio": self.audio,
            "history": self.history,
            "image": self.image,
            "text": self.texts,
        }
        return "+".join(name for name, value in present.items() if value)

    def files(self) -> dict[str, bytes | str]:
        """What webdataset's writer takes: the key and, by ending, the content of each file."""
        metadata: dict[str, Any] = {"id": self.id, "group": self.group}
        if self.texts:
            metadata["texts"] = self.texts
        if self.history:
            metadata["history"] = self.history
        metadata |= {"labels": self.labels, "source": self.source, "licence": self.licence}
        metadata |= self.meta
        out: dict[str, bytes | str] = {
            "__key__": self.key,
            "json": json.dumps(metadata, ensure_ascii=False).encode(),
        }
        if self.image:
            out[self.image_ending] = self.image
        if self.audio:
            out[self.audio_ending] = self.audio
        return out
