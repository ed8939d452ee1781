"""A sample before its files are read, and what completes it; both travel between processes."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm_prep import media
from mmfm_prep.errors import PrepError
from mmfm_prep.filters.options import Filters, Kind
from mmfm_prep.leaks import normalise
from mmfm_prep.sample import Sample, Texts, all_texts

Media = bytes | Path | None


@dataclass(kw_only=True)
class Draft:
    """What a source of the user's files says of a sample.

    `place` says where it comes from (file and line), for messages. `split` is None where the
    source's `shares` decide; `time` (seconds since 1970) is for splits by time. `texts` may be
    untidy: they are stripped and NFC-normalised, and empty ones left out.
    """

    place: str
    key: str
    id: str
    group: str
    split: str | None = None
    time: float | None = None
    texts: Texts = field(default_factory=dict)
    image: Media = None
    audio: Media = None
    history: list[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A sample that can't go into the shards, and why."""

    place: str
    reason: str


@dataclass
class Made:
    """A complete sample (its split "" where `shares` decide), and what is compared with others:
    by kind a digest of what it has, and a signature where nearly equal ones are looked for.
    """

    place: str
    sample: Sample
    time: float | None
    digests: dict[Kind, bytes]
    signatures: dict[Kind, bytes]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How drafts become samples: the options that are the same for all."""

    media: media.Processing
    filters: Filters
    source: str
    licence: str

    def complete(self, draft: Draft) -> Made | LeftOut:
        """The sample with its pictures and sounds read, checked and processed."""
        try:
            return self._complete(draft)
        except PrepError:  # not the sample's fault
            raise
        except ValueError as error:
            return LeftOut(draft.place, str(error))

    def _complete(self, draft: Draft) -> Made:
        wanted, near = self.filters, self.filters.near
        found: dict[Kind, media.Medium] = {}
        if draft.image is not None:
            data, seek = _read(draft.image), near.image is not None
            found["image"] = media.image(data, self.media, wanted.image, seek)
        if draft.audio is not None:
            data, seek = _read(draft.audio), near.audio is not None
            found["audio"] = media.audio(data, self.media, wanted.audio, seek)
        texts = {language: _tidy(phrases) for language, phrases in draft.texts.items()}
        image, audio = found.get("image"), found.get("audio")
        sample = Sample(
            key=draft.key,
            id=draft.id,
            group=draft.group,
            split=draft.split or "",
            texts={language: phrases for language, phrases in texts.items() if phrases} or None,
            image=image.data if image else None,
            image_ending=image.ending if image else "png",
            audio=audio.data if audio else None,
            audio_ending=audio.ending if audio else "flac",
            history=draft.history,
            labels=draft.labels,
            source=self.source,
            licence=self.licence,
            meta=draft.meta,
        )
        if not sample.modality_set:
            raise ValueError("has no picture, sound or text")
        digests = {kind: medium.digest for kind, medium in found.items()}
        for text in all_texts(sample.texts)[:1]:
            digests["text"] = hashlib.sha256(normalise(text).encode()).digest()[:12]
        signatures = {kind: m.signature for kind, m in found.items() if m.signature}
        return Made(draft.place, sample, draft.time, digests, signatures)


def _read(value: Path | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.read_bytes()
    except FileNotFoundError:
        raise ValueError("file is missing") from None
    except OSError as error:
        raise ValueError(f"file can't be read: {error.strerror}") from None


def _tidy(phrases: list[str]) -> list[str]:
    tidy = (unicodedata.normalize("NFC", phrase).strip() for phrase in phrases)
    return [phrase for phrase in tidy if phrase]
