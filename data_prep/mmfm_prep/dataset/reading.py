"""A dataset that is there: its manifest and its samples, for what looks at it.

    dataset = Dataset.open(Path("data/shop"))
    for sample in dataset.samples(["train"]):
        sample.texts, sample.image

Shards are read as training reads them (`mmfm.data.manifest`); nothing is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from mmfm.data.index import ShardIndex
from mmfm.data.manifest import MANIFEST, Manifest
from mmfm.data.tar import parse_run
from mmfm_prep.errors import PrepError
from mmfm_prep.parallel import Execution
from mmfm_prep.sample import Labels, Texts

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "webp")
AUDIO_ENDINGS = ("flac", "wav", "ogg", "mp3")
ALL = "all"
"""The split of what has no manifest."""
_SMALL = 64 << 20


@dataclass(frozen=True)
class Found:
    """A sample of a dataset. `files`: ending ▶ bytes; `modality_set`: what its index says."""

    split: str
    shard: str
    key: str
    files: dict[str, bytes]
    modality_set: str

    @cached_property
    def metadata(self) -> dict[str, Any] | None:
        """What its JSON says, {} where it has none; None where that is no JSON object."""
        try:
            found = json.loads(self.files.get("json", b"{}"))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    @property
    def meta(self) -> dict[str, Any]:
        return self.metadata or {}

    @cached_property
    def texts(self) -> Texts:
        """By language, "" where it isn't said; what is no text is left out."""
        texts = self.meta.get("texts")
        by_language = texts if isinstance(texts, dict) else {"": texts}
        found: Texts = {}
        for language, phrases in by_language.items():
            listed = phrases if isinstance(phrases, list) else [phrases]
            if strings := [_whole(phrase) for phrase in listed if isinstance(phrase, str)]:
                found[str(language)] = strings
        if "txt" in self.files and "texts" not in self.meta:
            found[""] = [self.files["txt"].decode("utf-8", errors="replace")]
        return found

    @property
    def image(self) -> bytes | None:
        return self._first(IMAGE_ENDINGS)

    @property
    def audio(self) -> bytes | None:
        return self._first(AUDIO_ENDINGS)

    @property
    def labels(self) -> Labels:
        labels = self.meta.get("labels")
        return {str(k): _names(v) for k, v in labels.items()} if isinstance(labels, dict) else {}

    @property
    def id(self) -> str:
        return str(self.meta.get("id") or f"{self.shard}/{self.key}")

    @property
    def group(self) -> str:
        return str(self.meta.get("group") or self.id)

    def _first(self, endings: Collection[str]) -> bytes | None:
        return next((self.files[ending] for ending in endings if ending in self.files), None)


def _names(value: Any) -> str | list[str]:
    return [str(v) for v in value] if isinstance(value, list) else str(value)


def _whole(text: str) -> str:
    """`text` with a question mark for each half of a surrogate pair, which JSON may hold."""
    return text.encode("utf-8", "replace").decode()


def read_one(file: BinaryIO, shard: str, index: ShardIndex, i: int, split: str = ALL) -> Found:
    """Sample `i` of an open tar; ValueError where it is not as its index says."""
    file.seek(int(index.offsets[i]))
    key = index.key(i)
    files = parse_run(file.read(int(index.sizes[i])), key)
    return Found(split, shard, key, files, index.set_names[index.set_codes[i]])


def worth(folder: Path, execution: Execution) -> Execution:
    """`execution`, or a single process where its others would start longer than they work."""
    size = sum(tar.stat().st_size for tar in folder.glob("*.tar"))
    return execution if size > _SMALL else Execution(1)


class Dataset:
    """`manifest`: its shards; `about`: all that manifest.json says, {} where there is none."""

    def __init__(self, folder: Path, manifest: Manifest, about: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.about = about

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """The dataset in `folder`, with or without a manifest. PrepError where there is none."""
        try:
            manifest = Manifest.open(folder)
            file = folder / MANIFEST
            about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise PrepError(str(error)) from None
        return cls(folder, manifest, about)

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(shard.split or ALL for shard in self.manifest.shards))

    @property
    def held_out(self) -> list[str]:
        return list(self.about.get("held_out", ()))

    def check_splits(self, splits: Collection[str]) -> None:
        """PrepError for one that isn't there."""
        if unknown := sorted(set(splits) - set(self.splits)):
            raise PrepError(f"{self.folder} has no split {unknown[0]!r}: {', '.join(self.splits)}")

    def samples(self, splits: Collection[str] | None = None) -> Iterator[Found]:
        """Every sample (of `splits`), shard by shard. PrepError where a shard is damaged."""
        for number, shard in enumerate(self.manifest.shards):
            split = shard.split or ALL
            if splits is not None and split not in splits:
                continue
            try:
                index = self.manifest.index(number)
                for i in range(len(index)):
                    files = self.manifest.read_sample(number, i)
                    modality_set = index.set_names[index.set_codes[i]]
                    yield Found(split, shard.name, index.key(i), files, modality_set)
            except ValueError as error:
                raise PrepError(f"{error}; mmfm data verify {self.folder} says more") from None
