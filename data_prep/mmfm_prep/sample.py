"""One sample on its way into a shard: encoded bytes and metadata, not yet tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmfm.data.endings import JSON, is_there
from mmfm_prep.errors import PrepError

Texts = dict[str, list[str]]
"""Language code ▶ texts in it. The first text of the first language is the one that evaluation
reads.
"""

Labels = Mapping[str, str | list[str]]
"""Field ▶ the name of a class, or those of several."""

IMAGE_ENDINGS = ("png", "jpg", "webp")
AUDIO_ENDINGS = ("flac", "wav", "ogg")
OWN = ("audio", "history", "image", "text")
TAKEN = ("json", "txt", *IMAGE_ENDINGS, *AUDIO_ENDINGS)
_MODALITY = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,96}")


def label_names(sample_labels: Labels, meta: dict[str, Any]) -> dict[str, list[str]]:
    """Field ▶ the names that a sample has in it; also those of fields with one for each token."""
    found = {f: [v] if isinstance(v, str) else v for f, v in sample_labels.items()}
    tokens = meta.get("tokens")
    if isinstance(tokens, list):
        found |= {
            field: listed
            for field, listed in meta.items()
            if field != "tokens" and isinstance(listed, list) and len(listed) == len(tokens)
            if all(isinstance(name, str) for name in listed)
        }
    return found


def all_texts(texts: Texts | None) -> list[str]:
    """The texts of all languages, in order."""
    return [text for phrases in (texts or {}).values() for text in phrases]


@dataclass(kw_only=True)
class Sample:
    """What `Source.samples` yields.

    `key` is the file stem in the shard (letters, digits, ``_`` and ``-``), unique in its split.
    `id` is unique in the dataset and stays with the sample through to the results. Samples with
    equal `group` mean the same thing. `history`: ids of samples, in the order in which somebody
    chose them. `labels` maps a field to a class name, or to several. `meta` is further metadata,
    plain JSON. `others` holds modalities that mmfm has no field for, by ending as
    `mmfm.data.endings` has them: ``{"video": {"gif": b"…"}, "price": {"json:price": 3.5}}``.

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
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
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

        for modality, held in self.others.items():
            if not _MODALITY.fullmatch(modality) or modality in OWN:
                raise PrepError(
                    f"sample {self.id!r}: others: {modality!r} can't be a modality's name: small "
                    f"letters, digits and '_', none of {', '.join(OWN)}"
                )
            for ending, value in held.items():
                in_json = ending.startswith(JSON)
                if not in_json and (not isinstance(value, bytes) or ending in TAKEN):
                    raise PrepError(
                        f"sample {self.id!r}: others.{modality}: {ending!r} must be an ending of "
                        f"its own with the bytes of a file, or {JSON}… with plain JSON"
                    )

    @property
    def modality_set(self) -> str:
        """The sorted names of what the sample has, joined by ``+``: ``audio+image+text``."""
        present = {
            "audio": self.audio,
            "history": self.history,
            "image": self.image,
            "text": self.texts,
            **{m: any(map(is_there, held.values())) for m, held in self.others.items()},
        }
        return "+".join(name for name, value in sorted(present.items()) if value)

    def other_files(self) -> dict[str, list[bytes]]:
        """Other modality ▶ the contents of its files, where it has some."""
        found = {
            modality: [
                value for ending, value in sorted(held.items()) if not ending.startswith(JSON)
            ]
            for modality, held in self.others.items()
        }
        return {modality: files for modality, files in found.items() if files}

    def files(self) -> dict[str, bytes | str]:
        """What webdataset's writer takes: the key and, by ending, the content of each file."""
        metadata: dict[str, Any] = {"id": self.id, "group": self.group}
        if self.texts:
            metadata["texts"] = self.texts
        if self.history:
            metadata["history"] = self.history
        metadata |= {"labels": self.labels, "source": self.source, "licence": self.licence}
        metadata |= self.meta
        others = {e: value for held in self.others.values() for e, value in held.items()}
        metadata |= {e.removeprefix(JSON): v for e, v in others.items() if e.startswith(JSON)}
        out: dict[str, bytes | str] = {
            "__key__": self.key,
            "json": json.dumps(metadata, ensure_ascii=False).encode(),
        }
        if self.image:
            out[self.image_ending] = self.image
        if self.audio:
            out[self.audio_ending] = self.audio
        return out | {e: value for e, value in others.items() if value and not e.startswith(JSON)}
