"""Tux Paint's stamps: pictures, captions in many languages, human speech and sounds.

    mmfm data make stamps data/stamps
    mmfm data make stamps data/french 'speech=[fr]' 'languages=[en, fr]'

One sample for each item (picture and captions), and one for each of its clips (with the picture and
captions; the caption in the language that is spoken comes first). Items that share a caption, a
picture or a clip are one `group` and in one split: train, val or test. Label: category. Dropped
clips and pictures are counted in the manifest. The package (GPL-2) comes from Debian through
``apt-get download``, pinned, into `cache`; it needs no root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mmfm_prep import fetch, pictures, sound
from mmfm_prep.leaks import content_hash, normalise
from mmfm_prep.progress import track
from mmfm_prep.sample import Sample, Texts
from mmfm_prep.sources.base import Source
from mmfm_prep.split import assign, connected_components
from mmfm_prep.stamps_package import PACKAGE, Item, find_items, read_captions, unpack


@dataclass
class _Decoded:
    item: Item
    texts: Texts
    image: bytes | None
    clips: dict[str, bytes]


@dataclass(kw_only=True)
class Config(Source):
    """Options of the stamps."""

    licence: ClassVar[str] = "GPL-2.0-only (Tux Paint stamps, Bill Kendrick and contributors)"
    not_recorded: ClassVar[tuple[str, ...]] = ("cache",)

    cache: Path = Path("cache")
    """Where the fetched package stays."""
    image_size: int = 96
    languages: list[str] = field(
        default_factory=lambda: ["en", "de", "es", "fr", "it", "ro", "ru", "zh", "bg", "ca"]
    )
    """Of the captions, English first."""
    speech: list[str] = field(default_factory=lambda: ["fr", "ro", "ru", "bg", "ca", "es"])
    """Languages of the human speech to take."""
    sounds: bool = True
    """Whether to take the sounds that are not speech."""
    sample_rate: int = 16000
    max_seconds: float = 10.0
    """Longer clips are dropped."""
    splits: dict[str, float] = field(
        default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1}
    )
    """The share of groups in each split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.languages[:1] != ["en"]:
            raise ValueError(f"languages = {self.languages}: must begin with en")
        missing = [language for language in self.speech if language not in self.languages]
        if missing:
            raise ValueError(f"speech: {', '.join(missing)} must be among the languages too")
        if not self.splits or min(self.splits.values()) <= 0:
            raise ValueError(f"splits = {self.splits}: every share must be above 0")
        if not 16 <= self.image_size <= 512:
            raise ValueError(f"image_size = {self.image_size}: must be 16 to 512 pixels")

    def held_out(self) -> tuple[str, ...]:
        return tuple(split for split in self.splits if split != "train")

    def samples(self) -> Iterator[Sample]:
        files = unpack(fetch.apt(PACKAGE, self.cache))
        self._clips_seen: dict[str, str] = {}
        items, self._dropped = find_items(sorted(files))
        decoded = [self._decode(item, files) for item in track(items, "decode stamps")]
        group = connected_components(
            [d.item.stem for d in decoded],
            [(d.item.stem, feature) for d in decoded for feature in self._features(d, files)],
        )
        split = assign(sorted(set(group.values())), self.splits, self.seed)
        self.notes["package"] = f"{PACKAGE.name} {PACKAGE.version}"
        self.notes["items"] = len(decoded)
        self.notes["groups"] = len(set(group.values()))
        self.notes["items_without_picture"] = sum(d.image is None for d in decoded)
        self.notes["dropped"] = dict(sorted(self._dropped.items()))
        for d in decoded:
            name = group[d.item.stem]
            if d.image:
                yield self._sample(d, name, split[name])
            for language, audio in d.clips.items():
                yield self._sample(d, name, split[name], language, audio)

    def _decode(self, item: Item, files: dict[str, bytes]) -> _Decoded:
        assert item.captions is not None
        texts = read_captions(files[item.captions], self.languages)
        image = None if item.picture is None else self._picture(files[item.picture], item.picture)
        clips = {}
        for language, path in item.clips.items():
            if language in self.speech or (language == "" and self.sounds):
                clip = self._clip(files[path], item.stem)
                if clip is not None:
                    clips[language] = clip
        return _Decoded(item, texts, image, clips)

    def _picture(self, data: bytes, path: str) -> bytes | None:
        try:
            if path.endswith(".svg"):
                picture = pictures.render_svg(data.decode("utf-8"), self.image_size)
            else:
                picture = pictures.decode(data)
        except ValueError:
            self._dropped["picture: not readable"] += 1
            return None
        on_white = pictures.on_white(picture, self.image_size)
        if pictures.is_blank(on_white):
            self._dropped["picture: nothing to be seen on white"] += 1
            return None
        return pictures.png(on_white)

    def _clip(self, data: bytes, stem: str) -> bytes | None:
        first = self._clips_seen.setdefault(content_hash(data), stem)
        if first != stem:
            self._dropped["clip: the same as another item's"] += 1
            return None
        try:
            wave, rate = sound.decode(data)
        except ValueError:
            self._dropped["clip: not readable"] += 1
            return None
        wave = sound.trim(wave, rate)
        if sound.rms(wave) < 1e-3:
            self._dropped["clip: silent"] += 1
            return None
        if len(wave) > self.max_seconds * rate:
            self._dropped[f"clip: longer than {self.max_seconds:g} s"] += 1
            return None
        wave = sound.to_level(sound.resample(wave, rate, self.sample_rate))
        return sound.encode(wave, self.sample_rate)

    def _features(self, decoded: _Decoded, files: dict[str, bytes]) -> Iterator[tuple[str, str]]:
        """What makes two items the same: a caption in any of the languages, the picture, a clip.

        Dropped clips count too: what was read out for both has the same meaning.
        """
        for language, texts in decoded.texts.items():
            yield f"caption {language}", normalise(texts[0])
        if decoded.image:
            yield "image", content_hash(decoded.image)
        for path in decoded.item.clips.values():
            yield "audio", content_hash(files[path])

    def _sample(
        self,
        decoded: _Decoded,
        group: str,
        split: str,
        language: str | None = None,
        audio: bytes | None = None,
    ) -> Sample:
        texts = decoded.texts
        meta = {}
        kind = "picture"
        if audio is not None:
            kind = f"speech-{language}" if language else "sound"
            meta = {"language": language, "speech": "human"} if language else {"sound": "effect"}
            if language in texts:
                texts = {language: texts[language]} | texts
        return Sample(
            key=f"{re.sub(r'[^A-Za-z0-9]+', '-', decoded.item.stem)}-{kind}"[-96:].lstrip("-"),
            id=f"stamps/{decoded.item.stem}/{kind}",
            group=f"stamps/{group}",
            split=split,
            texts=texts,
            image=decoded.image,
            audio=audio,
            labels={"category": decoded.item.category},
            source=PACKAGE.name,
            licence="GPL-2.0-only",
            meta=meta,
        )
