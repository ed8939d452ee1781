"""A sample before its files are read, and what completes it; both travel between processes."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm_prep.augment.text import TextAugmentation
from mmfm_prep.errors import PrepError
from mmfm_prep.filters import Unwanted, near_text
from mmfm_prep.filters.options import Filters, Kind
from mmfm_prep.leaks import normalise
from mmfm_prep.making import media
from mmfm_prep.sample import Labels, Sample, Texts, all_texts

Media = bytes | Path | None
_SPLIT = re.compile(r"\w[\w.-]*")


@dataclass(kw_only=True)
class Draft:
    """What a source of the user's files says of a sample.

    `place` says where it comes from (file and line), for messages. `split` is None where the
    source's `shares` decide; `time` (seconds since 1970) is for splits by time. `texts` may be
    untidy: they are stripped and NFC-normalised, and empty ones left out. `others`: as a `Sample`
    has them, a file's content may be its path.
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
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A sample that can't go into the shards, and why."""

    place: str
    reason: str


@dataclass
class Made:
    """A complete sample (its split "" where `shares` decide), by kind a signature where nearly
    equal ones are looked for, and `counts`: what became of its texts.
    """

    place: str
    sample: Sample
    time: float | None
    signatures: dict[Kind, bytes]
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How drafts become samples: the options that are the same for all."""

    media: media.Processing
    filters: Filters
    augment: TextAugmentation
    seed: int
    source: str
    licence: str

    def complete(self, drafts: Sequence[Draft | LeftOut]) -> list[Made | LeftOut]:
        """The samples with their files read, checked and processed."""
        found = [self._try(draft) if isinstance(draft, Draft) else draft for draft in drafts]
        if self.filters.similarity.checkpoint is not None:
            self._compare(found)
        return found

    def _try(self, draft: Draft) -> Made | LeftOut:
        try:
            return self._complete(draft)
        except PrepError:  # not the sample's fault
            raise
        except ValueError as error:
            return LeftOut(draft.place, str(error))

    def _complete(self, draft: Draft) -> Made:
        _check_names(draft)
        wanted, near = self.filters, self.filters.near
        found: dict[Kind, media.Medium] = {}
        if draft.image is not None:
            data, seek = _read(draft.image), near.image is not None
            found["image"] = media.image(data, self.media, wanted.image, seek)
        if draft.audio is not None:
            data, seek = _read(draft.audio), near.audio is not None
            found["audio"] = media.audio(data, self.media, wanted.audio, seek)
        digests: dict[str, bytes] = {kind: medium.digest for kind, medium in found.items()}
        signatures = {kind: m.signature for kind, m in found.items() if m.signature}
        counts: Counter[str] = Counter()
        texts = self._texts(draft.texts, counts)
        for text in all_texts(texts)[:1]:
            digests["text"] = hashlib.sha256(normalise(text).encode()).digest()[:12]
            if near.text is not None:
                signatures["text"] = near_text.signature(text)
        meta = dict(draft.meta)
        if texts and self.augment.active:
            number = int.from_bytes(hashlib.sha256(draft.id.encode()).digest()[:6], "big")
            texts, marks = self.augment.apply(texts, self.seed ^ number)
            counts.update(how for made in marks.values() for how in made.values())
            if marks:
                meta["augmented"] = marks
        image, audio = found.get("image"), found.get("audio")
        sample = Sample(
            key=draft.key,
            id=draft.id,
            group=draft.group,
            split=draft.split or "",
            texts=texts or None,
            image=image.data if image else None,
            image_ending=image.ending if image else "png",
            audio=audio.data if audio else None,
            audio_ending=audio.ending if audio else "flac",
            history=draft.history,
            others={
                modality: {e: _read(v) if isinstance(v, Path) else v for e, v in held.items()}
                for modality, held in draft.others.items()
            },
            labels=draft.labels,
            source=self.source,
            licence=self.licence,
            meta=meta,
            digests=digests,
        )
        if not sample.modality_set:
            raise ValueError("has no picture, sound or text")
        return Made(draft.place, sample, draft.time, signatures, dict(counts))

    def _texts(self, drafted: Texts, counts: Counter[str]) -> Texts:
        """The texts, tidy, that the filter keeps; `Unwanted` if it keeps none."""
        wanted = self.filters.text
        out: Texts = {}
        refused: Unwanted | None = None
        for language, phrases in drafted.items():
            for phrase in _tidy(phrases):
                try:
                    kept = wanted.apply(phrase) if wanted.active else phrase
                except Unwanted as reason:
                    refused = refused or reason
                    counts[f"left out: {reason}"] += 1
                    continue
                counts["masked"] += kept != phrase
                out.setdefault(language, []).append(kept)
        if refused and not out:
            raise refused
        return out

    def _compare(self, found: list[Made | LeftOut]) -> None:
        """Puts the samples of `found` whose parts don't belong together among those left out."""
        similarity = self.filters.similarity
        there = [(place, made) for place, made in enumerate(found) if isinstance(made, Made)]
        cosines = similarity.of([made.sample for _, made in there])
        for (place, made), cosine in zip(there, cosines, strict=True):
            if isinstance(cosine, str):
                found[place] = LeftOut(made.place, cosine)
            elif cosine is not None and cosine < similarity.min:
                reason = f"{' and '.join(similarity.pair)} less similar than {similarity.min:g}"
                found[place] = LeftOut(made.place, reason)
            elif cosine is not None:
                made.sample.meta["similarity"] = cosine


def check_split(name: str) -> None:
    """ValueError where `name` can't begin a shard's file name."""
    if not _SPLIT.fullmatch(name):
        raise ValueError("a split's name has other characters than letters, digits, '_', '.', '-'")


def _check_names(draft: Draft) -> None:
    if draft.split is not None:
        check_split(draft.split)
    told = [
        draft.id,
        draft.group,
        draft.split,
        draft.texts,
        draft.history,
        draft.labels,
        draft.meta,
    ]
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, or a file name in another encoding
        raise ValueError("its name, texts or labels are not valid Unicode") from None


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
