"""WebDataset tars that are there, written anew: checked, processed, filtered and split.

    mmfm data make shards cc12m data/cc12m                # what img2dataset writes: jpg, txt, json
    mmfm data make shards 'tars/part-*.tar' data/mine 'texts.en=[meta.title]' 'labels=[kind]'

The input is a folder, a tar or a pattern. Pictures and sounds are known by their endings, ``.txt``
is a caption, ``.cls`` a class; all that ``.json`` says stays. Nothing is unpickled. To train on
tars as they are, name them in the recipe; they need not be made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm.data.manifest import MANIFEST, Manifest
from mmfm.data.plain_tars import find_tars
from mmfm_prep.dataset.reading import AUDIO_ENDINGS, IMAGE_ENDINGS, Found
from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.progress import say
from mmfm_prep.sample import Labels, Texts
from mmfm_prep.sources._splits import split_of
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.tables.cells import MISSING, find, names_of, no_column, one_text, text, texts

_OWN = ("id", "group", "texts", "history", "labels")
_TEXTS = ("json", "txt", "cls")


@dataclass(kw_only=True)
class Config(FilesSource):
    """`image`, `audio`: endings, the best first. `texts` (language ▶ names), `labels`, `id`,
    `group` and `split` name what the JSON says, with dots for what lies inside; without them the
    fields that mmfm writes count, and ``.txt``, in `language`. `label`: the field for ``.cls``.
    `split_files`: the names of tars, or of their folders, tell splits.
    """

    image: list[str] = field(default_factory=lambda: [*IMAGE_ENDINGS, "bmp", "gif", "tif", "tiff"])
    audio: list[str] = field(default_factory=lambda: [*AUDIO_ENDINGS, "aiff", "opus"])
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    id: str | None = None
    group: str | None = None
    split: str | None = None
    split_files: bool = False
    language: str = "en"
    label: str = "class"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split and self.split_files:
            raise ValueError("split and split_files: name one of them")

    def check_input(self) -> None:
        self._tars()

    def drafts(self) -> Iterator[Draft | LeftOut]:
        self._ignored: Counter[str] = Counter()
        self._unseen = set(self._names())
        self._seen: dict[str, None] = {}
        for number, found in enumerate(self._found()):
            yield self._draft(number, found) if isinstance(found, Found) else found
        if self._unseen and self._seen:
            raise PrepError(no_column(str(self.input), min(self._unseen), self._seen, "JSON key"))
        self.notes["ignored_files"] = dict(sorted(self._ignored.items()))
        if self._ignored:
            told = ", ".join(f"{n:,} .{ending}" for ending, n in self._ignored.most_common(8))
            say(f"ignored: {told}; 'image=[ending]' and 'audio=[ending]' name other endings")

    def _names(self) -> list[str]:
        one = [name for name in (self.id, self.group, self.split) if name]
        return [*one, *self.labels, *(n for names in self.texts.values() for n in names)]

    def _tars(self) -> list[Path]:
        """The tars, those in folders of a folder, too. PrepError if there are none."""
        inside = self.input.glob("*/*.tar") if self.input.is_dir() else []
        if plain := [tar for tar in inside if not (tar.parent / MANIFEST).exists()]:
            return sorted([*self.input.glob("*.tar"), *plain])
        try:
            return find_tars(str(self.input))
        except ValueError as error:
            raise PrepError(str(error)) from None

    def _found(self) -> Iterator[Found | LeftOut]:
        if (self.input / MANIFEST).is_file():
            try:
                manifest = Manifest.open(self.input)
            except ValueError as error:
                raise PrepError(str(error)) from None
            for number, shard in enumerate(manifest.shards):
                yield from self._of(manifest, number, shard.name)
            return
        tars = self._tars()
        folder = os.path.commonpath([tar.parent for tar in tars])
        for tar in tars:
            name = tar.relative_to(folder).as_posix()
            try:
                manifest = Manifest.open(tar)
            except ValueError as error:
                say(str(error))
                yield LeftOut(name, "a tar can't be read, with all that is in it")
                continue
            yield from self._of(manifest, 0, name)

    def _of(self, manifest: Manifest, shard: int, name: str) -> Iterator[Found | LeftOut]:
        """The samples of a tar."""
        tar, split = manifest.shards[shard].path, manifest.shards[shard].split
        if self.split_files:
            split = split_of(tar.name) or split_of(tar.parent.name) or ""
        index = manifest.index(shard)
        for i in range(len(index)):
            place = f"{name}/{index.key(i)}"
            if self.split_files and not split:
                yield LeftOut(place, "neither its tar's name nor its folder's tells a split")
                continue
            try:
                files = manifest.read_sample(shard, i)
            except ValueError:
                yield LeftOut(place, "tar is damaged")
                continue
            modality_set = index.set_names[index.set_codes[i]]
            yield Found(split, name, index.key(i), files, modality_set)

    def _draft(self, number: int, found: Found) -> Draft | LeftOut:
        place = f"{found.shard}/{found.key}"
        meta = found.metadata
        if meta is None:
            return LeftOut(place, "JSON is no object")
        self._look(meta)
        try:
            name = self._told(meta, self.id, "id") or place
            image, audio = self._first(found, self.image), self._first(found, self.audio)
            draft = Draft(
                place=place,
                key=f"{number:08d}",
                id=name,
                group=self._told(meta, self.group, "group") or name,
                split=self._split(found, meta),
                texts=self._texts(found, meta),
                image=found.files.get(image),
                audio=found.files.get(audio),
                history=_history(meta),
                labels=self._labels(found, meta),
                meta=self._rest(meta),
            )
        except ValueError as error:
            return LeftOut(place, str(error))
        self._ignored.update(found.files.keys() - {image, audio, *_TEXTS})
        return draft

    def _look(self, meta: dict[str, Any]) -> None:
        """Remembers which names lead to something in some sample."""
        if self._unseen:
            self._unseen -= {name for name in self._unseen if find(meta, name) is not MISSING}
            self._seen |= dict.fromkeys(names_of([meta]) if len(self._seen) < 1000 else ())

    def _told(self, meta: dict[str, Any], option: str | None, own: str) -> str:
        value = find(meta, option or own)
        told = "" if value is MISSING else one_text(value, option or own)
        if option and not told:
            raise ValueError(f"{option} is empty")
        return told

    def _split(self, found: Found, meta: dict[str, Any]) -> str | None:
        return self._told(meta, self.split, "") if self.split else found.split or None

    def _texts(self, found: Found, meta: dict[str, Any]) -> Texts:
        if self.texts:
            named = {lang: [find(meta, name) for name in n] for lang, n in self.texts.items()}
            return {
                language: [t for value in values if value is not MISSING for t in texts(value)]
                for language, values in named.items()
            }
        if "txt" in found.files and "texts" not in meta:
            try:
                return {self.language: [found.files["txt"].decode("utf-8-sig")]}
            except UnicodeDecodeError:
                raise ValueError("its text is not UTF-8") from None
        return {language or self.language: phrases for language, phrases in found.texts.items()}

    def _labels(self, found: Found, meta: dict[str, Any]) -> Labels:
        labels = dict(found.labels)
        if "cls" in found.files:
            labels[self.label] = found.files["cls"].decode("utf-8", errors="replace").strip()
        for name in self.labels:
            value = find(meta, name)
            labels[name] = "" if value is MISSING else one_text(value, name)
        return {name: told for name, told in labels.items() if told or isinstance(told, list)}

    def _rest(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What else the JSON says; the licence only where the command says none."""
        own = (*_OWN, "licence") if self.licence != "unknown" else _OWN
        return {name: value for name, value in meta.items() if name not in own}

    def _first(self, found: Found, endings: list[str]) -> str:
        return next((ending for ending in endings if ending in found.files), "")


def _history(meta: dict[str, Any]) -> list[str] | None:
    history = meta.get("history")
    return [text(item) for item in history] if isinstance(history, list) else None
