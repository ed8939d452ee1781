"""A sample before its files are read, and what completes it; both travel between processes."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm_prep import media
from mmfm_prep.sample import Sample, Texts

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


def complete(draft: Draft, how: media.Processing, source: str, licence: str) -> Sample | LeftOut:
    """The sample with its pictures and sounds read, checked and processed."""
    try:
        image = media.image(_read(draft.image), how) if draft.image is not None else None
        audio = media.audio(_read(draft.audio), how) if draft.audio is not None else None
    except ValueError as error:
        return LeftOut(draft.place, str(error))
    texts = {language: _tidy(phrases) for language, phrases in draft.texts.items()}
    sample = Sample(
        key=draft.key,
        id=draft.id,
        group=draft.group,
        split=draft.split or "",
        texts={language: phrases for language, phrases in texts.items() if phrases} or None,
        image=image[0] if image else None,
        image_ending=image[1] if image else "png",
        audio=audio[0] if audio else None,
        audio_ending=audio[1] if audio else "flac",
        history=draft.history,
        labels=draft.labels,
        source=source,
        licence=licence,
        meta=draft.meta,
    )
    return sample if sample.modality_set else LeftOut(draft.place, "has no picture, sound or text")


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
