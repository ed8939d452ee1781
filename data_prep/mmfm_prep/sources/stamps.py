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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from mmfm_prep import pictures, sound
from mmfm_prep.leaks import content_hash, normalise
from mmfm_prep.making.split import assign, connected_components
from mmfm_prep.parallel import ordered_map
from mmfm_prep.progress import track
from mmfm_prep.registries import fetch
from mmfm_prep.registries.stamps_package import PACKAGE, Item, find_items, read_captions, unpack
from mmfm_prep.sample import Sample, Texts
from mmfm_prep.sources.base import Source

SILENCE = 1e-3
"""RMS below which a clip is silent."""


@dataclass
class _Decoded:
    item: Item
    texts: Texts
    image: bytes | None = None
    clips: dict[str, bytes] = field(default_factory=dict)


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
        items, self._dropped = find_items(sorted(files))
        decoded = self._decode(items, files)
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

    def _decode(self, items: Sequence[Item], files: dict[str, bytes]) -> list[_Decoded]:
        """Pictures and clips of all items, as they go into the shards."""
        decoded = []
        jobs: list[tuple[_Decoded, str | None, str]] = []  # (of what, language of a clip, path)
        first: dict[str, str] = {}
        for item in items:
            assert item.captions is not None
            one = _Decoded(item, read_captions(files[item.captions], self.languages))
            decoded.append(one)
            if item.picture is not None:
                jobs.append((one, None, item.picture))
            for language, path in item.clips.items():
                if language in self.speech or (language == "" and self.sounds):
                    if first.setdefault(content_hash(files[path]), item.stem) == item.stem:
                        jobs.append((one, language, path))
                    else:
                        self._dropped["clip: the same as another item's"] += 1
        work = [(path, files[path]) for _, _, path in jobs]
        convert = partial(_convert, size=self.image_size, rate=self.sample_rate)
        convert = partial(convert, max_seconds=self.max_seconds)
        results = track(
            ordered_map(convert, work, execution=self.execution), "decode stamps", len(work)
        )
        for (one, spoken, _), result in zip(jobs, results, strict=True):
            if isinstance(result, str):
                self._dropped[result] += 1
            elif spoken is None:
                one.image = result
            else:
                one.clips[spoken] = result
        return decoded

    def _features(self, decoded: _Decoded, files: dict[str, bytes]) -> Iterator[tuple[str, str]]:
        """What makes two items the same: a caption in any of the languages, the picture, a clip.

        Dropped clips count too: what was read out for both has the same meaning.
        """
        for language, texts in decoded.texts.items():
            yield f"caption {language}", normalise(texts[0])
        if decoded.image:
            yield "image", content_hash(decoded.image)
        for path in decoded.item.clips.values():
            yield "recording", content_hash(files[path])
        for clip in decoded.clips.values():  # other files may hold the same sound
            yield "audio", content_hash(clip)

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


def _convert(job: tuple[str, bytes], size: int, rate: int, max_seconds: float) -> bytes | str:
    """A picture as PNG or a clip as FLAC; the reason, where it is dropped."""
    path, data = job
    if path.endswith((".png", ".svg")):
        return convert_picture(data, size)
    return convert_clip(data, rate, max_seconds)


def convert_picture(data: bytes, size: int) -> bytes | str:
    """PNG on a white square of `size` pixels, or why there is none."""
    try:
        if data.lstrip().startswith(b"<"):
            picture = pictures.render_svg(data.decode("utf-8"), size)
        else:
            picture = pictures.decode(data)
    except ValueError:
        return "picture: not readable"
    on_white = pictures.on_white(picture, size)
    if pictures.is_blank(on_white):
        return "picture: nothing to be seen on white"
    return pictures.png(on_white)


def convert_clip(data: bytes, to_rate: int, max_seconds: float) -> bytes | str:
    """Mono FLAC at `to_rate` Hz without silence at its ends, at one level, or why there is none."""
    try:
        wave, rate = sound.decode(data)
    except ValueError:
        return "clip: not readable"
    wave = sound.trim(wave, rate)
    if sound.rms(wave) < SILENCE:
        return "clip: silent"
    if len(wave) > max_seconds * rate:
        return f"clip: longer than {max_seconds:g} s"
    return sound.encode(sound.to_level(sound.resample(wave, rate, to_rate)), to_rate)
