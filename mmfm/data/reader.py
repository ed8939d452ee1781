"""Samples read from shards by offset, as files by ending with their metadata and id.

A sample lies in its shard as a run of tar members that share a key, ``<key>.<ending>``; the shard's
index says where. Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mmfm.data.manifest import Manifest
from mmfm.data.remote.fetch import FetchError
from mmfm.data.transforms.base import BadSample


@dataclass(frozen=True)
class RawSample:
    """One sample's files (ending ▶ bytes), its metadata (``<key>.json``), its id and modalities."""

    files: dict[str, bytes]
    meta: dict[str, Any]
    sample_id: str
    place: str
    """``<source>/<shard>/<key>``, for messages."""
    modalities: tuple[str, ...]
    """What the index says that it has; it is bad if one of them can't be decoded."""


class SampleReader:
    """Reads samples of several sources (name, manifest) by (source, shard, index in the shard)."""

    def __init__(
        self, sources: Sequence[tuple[str, Manifest]], max_sample_bytes: int | None = None
    ) -> None:
        self.sources = list(sources)
        self.max_sample_bytes = max_sample_bytes

    def read(self, source: int, shard: int, index: int) -> RawSample:
        """One sample.

        Raises BadSample for one that can't be used, ValueError for a broken shard.
        """
        name, manifest = self.sources[source]
        entries = manifest.index(shard)
        place = f"{name}/{manifest.shards[shard].name}/{entries.key(index)}"
        modalities = entries.modalities(index)
        if modalities is None:
            raise BadSample("outside the subset", place)
        size = int(entries.sizes[index])
        if self.max_sample_bytes is not None and size > self.max_sample_bytes:
            raise BadSample("sample too large", place, f"{size} bytes")
        try:
            files = manifest.read_sample(shard, index)
        except FetchError:
            raise
        except ValueError as error:
            if not manifest.is_whole(shard):
                raise
            raise BadSample("tar member damaged", place, str(error)) from None
        try:
            meta = _metadata(files)
        except BadSample as bad:
            raise BadSample(bad.reason, place, bad.detail) from None
        identity = meta.get("id")
        usable = isinstance(identity, str | int) and identity != ""
        return RawSample(
            files=files,
            meta=meta,
            sample_id=str(identity) if usable else place,
            place=place,
            modalities=modalities,
        )


def hash63(text: str) -> int:
    """A hash of `text` from 0 to 2**63 - 1, the same on every machine."""
    return (
        int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
    )


def _metadata(files: dict[str, bytes]) -> dict[str, Any]:
    if "json" not in files:
        return {}
    try:
        meta = json.loads(files["json"])
    except (ValueError, RecursionError) as error:
        raise BadSample("metadata not valid JSON", detail=str(error)) from None
    if not isinstance(meta, dict):
        raise BadSample("metadata not a JSON object")
    return meta
