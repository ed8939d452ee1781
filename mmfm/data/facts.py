"""What the metadata of every sample of a data set say: its id, its group, its labels.

    facts = read_facts(manifest)
    facts.groups[facts.first[shard] + i]

Only the headers of a shard and the samples' JSON are read, not pictures or sounds: 100,000 samples
take about five seconds. What was read is kept for the next call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm.data.lru import Lru
from mmfm.data.manifest import Manifest
from mmfm.data.tar import BLOCK

_AT_ONCE = 4096
"""Bytes of one read: as a rule a small file, its JSON and their headers."""


@dataclass(frozen=True, eq=False)
class Facts:
    """All samples of a data set, shard by shard; those of shard s are from ``first[s]`` to before
    ``first[s + 1]``.

    `ids`: what the sample's JSON says, None without; `names`: that, or the place in the data set;
    `groups`: samples with equal ones mean the same; `labels`, `numbers`: all of a sample's by
    field.
    """

    first: list[int]
    ids: list[str | None]
    names: list[str]
    groups: list[str]
    labels: list[dict[str, Any]]
    numbers: list[dict[str, Any]]

    def values(self, field: str) -> list[tuple[str, ...]]:
        """The labels `field` of each sample: none, one, or those of a list."""
        return [_values(labels.get(field)) for labels in self.labels]


_held: Lru[Facts] = Lru(8)


def read_facts(manifest: Manifest) -> Facts:
    """The facts of all samples that the shards hold, whatever part of them `manifest` shows.

    ValueError where a shard can't be read. A sample whose JSON can't be read has none.
    """
    whole = manifest.whole
    return _held.get(whole.digest(), lambda: _read(whole))


def labels_of(manifest: Manifest, field: str) -> Iterator[tuple[str, ...]]:
    """The labels `field` of the samples that `manifest` shows, shard by shard as they are read."""
    for number in range(len(manifest.shards)):
        shown = manifest.index(number).has_some().tolist()
        for there, meta in zip(shown, _metadata(manifest.whole, number), strict=True):
            labels = meta.get("labels")
            if there and isinstance(labels, dict):
                yield _values(labels.get(field))


def visible(manifest: Manifest) -> NDArray[np.bool_]:
    """[n] of all samples that the shards hold: those that `manifest` shows."""
    has_some = [manifest.index(number).has_some() for number in range(len(manifest.shards))]
    return np.concatenate([np.zeros(0, np.bool_), *has_some])


def _read(manifest: Manifest) -> Facts:
    facts = Facts([0], [], [], [], [], [])
    for number, shard in enumerate(manifest.shards):
        index = manifest.index(number)
        for i, meta in enumerate(_metadata(manifest, number)):
            told, group, labels = meta.get("id"), meta.get("group"), meta.get("labels")
            usable = isinstance(told, str | int) and told != ""
            name = str(told) if usable else f"{shard.name}/{index.key(i)}"
            facts.ids.append(name if usable else None)
            facts.names.append(name)
            facts.groups.append(name if group in (None, "") else str(group))
            facts.labels.append(labels if isinstance(labels, dict) else {})
            numbers = meta.get("numbers")
            facts.numbers.append(numbers if isinstance(numbers, dict) else {})
        facts.first.append(len(facts.names))
    return facts


def _metadata(manifest: Manifest, shard: int) -> Iterator[dict[str, Any]]:
    """The JSON of each sample of a shard, {} where there is none that can be read."""
    index = manifest.index(shard)
    places = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    for i, (offset, size) in enumerate(places):
        try:
            content = _json_in(manifest, shard, offset, size)
            if content is None:
                content = manifest.read_sample(shard, i).get("json", b"{}")
            meta = json.loads(content)
        except (ValueError, RecursionError):
            if not manifest.is_whole(shard):
                raise
            meta = {}
        yield meta if isinstance(meta, dict) else {}


def _json_in(manifest: Manifest, shard: int, offset: int, size: int) -> bytes | None:
    """The JSON file of the sample at `offset`, found by the headers of its tar members; None where
    they aren't the usual ones, or there is no such file.
    """
    at, end = offset, offset + size
    start, data = at, b""
    while at < end:
        if at + BLOCK > start + len(data):
            start, data = at, manifest.read_bytes(shard, at, min(_AT_ONCE, end - at))
        header = data[at - start : at - start + BLOCK]
        kind = header[156:157]
        try:
            length = int(header[124:135], 8)
        except ValueError:
            return None
        begin = at + BLOCK
        if kind == b"x":  # webdataset writes one for each file, with its time
            told = manifest.read_bytes(shard, begin, length)
            if b" path=" in told or b" size=" in told:
                return None
        elif kind not in (b"0", b"\0"):
            return None
        elif header[:100].rstrip(b"\0").lower().endswith(b".json"):
            if begin + length > start + len(data):
                return manifest.read_bytes(shard, begin, length)
            return data[begin - start : begin - start + length]
        at = begin + -(-length // BLOCK) * BLOCK
    return b"{}"


def _values(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
