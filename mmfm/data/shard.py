"""One tar of a data set, as a manifest describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmfm.data.index import IndexHeader
from mmfm.data.remote.urls import has_scheme


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar. `name` is its path below `folder`; `modality_sets`: samples by modality set.

    `folder` of a shard at a URL is for messages: it has no password and no query.
    """

    name: str
    folder: str
    bytes: int
    sha256: str
    samples: int
    modality_sets: dict[str, int]
    split: str = ""

    @property
    def path(self) -> Path:
        return Path(self.folder, self.name)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.folder}/{self.name}"

    @classmethod
    def of(cls, entry: Mapping[str, Any], folder: str) -> Shard:
        """What an entry of a manifest in `folder` describes; ValueError where it can't be."""
        name = str(entry["name"])
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not name or has_scheme(name):
            raise ValueError(f"shard name {name!r} leads out of the manifest's folder")
        sets = {str(k): int(v) for k, v in entry["modality_sets"].items()}
        samples, split = int(entry["samples"]), str(entry["split"])
        if sum(sets.values()) != samples or min(sets.values(), default=0) < 0:
            raise ValueError(f"shard {name}: {samples} samples, but by modality set {sets}")
        size, sha256 = int(entry["bytes"]), str(entry["sha256"])
        if size < 0:
            raise ValueError(f"shard {name} has {size} bytes")
        return cls(name, folder, size, sha256, samples, sets, split)

    def is_of(self, header: IndexHeader) -> bool:
        """Whether an index is that of this tar."""
        same_tar = (header.bytes, header.sha256) == (self.bytes, self.sha256)
        return same_tar and header.modality_sets == self.modality_sets

    def check_size(self, manifest: Path) -> None:
        """ValueError where the file isn't there, or not as long as `manifest` says."""
        try:
            size = self.path.stat().st_size
        except OSError:
            raise ValueError(
                f"shard {self.path} is missing, though {manifest} lists it: copy it there, or make"
                " the data set again"
            ) from None
        if size != self.bytes:
            raise ValueError(
                f"shard {self.path} has {size} bytes, {manifest} says {self.bytes}: it was cut or"
                " changed. Copy it again, or make the data set again"
            )
