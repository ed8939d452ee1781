"""Fill a feature cache: run an encoder over every content of a modality that the cache lacks.

The encoder comes in as a function, because the data know no model:

    build_cache(cache, sources, "image", transform, encode)  # encode: inputs ▶ tokens, mask, pooled

A shard that was encoded whole is remembered in the cache, so that the next start doesn't read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor

from mmfm.data.feature_cache import CachedOutput, CacheWriter, FeatureCache, content_hash
from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader
from mmfm.data.shard import Shard
from mmfm.data.transforms.base import BadSample, Transform

Encode = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None, Tensor]]
"""The batch keys of one modality ▶ tokens [B, L, D], their mask [B, L] or None, pooled [B, D]."""

UNUSED = np.random.default_rng(0)
"""Transforms take a generator; without `train` they draw nothing from it."""


@dataclass
class BuildReport:
    """What `build_cache` did on this rank: contents encoded or there already, bad samples; shards
    that weren't read, because all of their contents are known to be there.
    """

    encoded: int
    present: int
    bad: Counter[str]
    shards_known: int = 0


def build_cache(
    cache: FeatureCache,
    sources: Sequence[tuple[str, Manifest]],
    modality: str,
    transform: Transform,
    encode: Encode,
    *,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    train: bool = True,
    settings: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Encode every content of `modality` in `sources` that `cache` lacks.

    All of a sample's texts are contents of their own; unless `train`, only the one content that
    evaluation uses is encoded. Rank r of W encodes the contents whose hash is r modulo W, so one
    that many samples share is encoded once. Inputs are those of evaluation, without augmentation.
    `settings` says what, beside a shard's bytes, decides about its contents: the settings of
    `transform`. With it, shards without a bad sample are remembered and not read another time.
    `progress` hears after each sample how many of all are done.

    There is no communication: call a barrier, then `cache.refresh()`, before the outputs of other
    ranks are read.
    """
    filled = cache.filled()
    every = list(_shards_with(modality, sources))
    shards = [s for s in every if filled.isdisjoint(_names(modality, settings, train, s.shard))]
    report = BuildReport(0, 0, Counter(), len(every) - len(shards))
    total, number = sum(s.samples for s in shards), 0
    reader = SampleReader(sources)
    good = []
    with cache.writer(rank) as writer:
        share = _Share(cache, writer, modality, transform, encode, report, rank, world_size)
        for shard in shards:
            all_good = True
            for found in _contents(reader, shard, modality, transform, train):
                if isinstance(found, BadSample):
                    all_good = False
                    if number % world_size == rank:  # every rank meets it; one counts it
                        report.bad[found.reason] += 1
                else:
                    for content in found:
                        all_good &= share.add(content)
                if len(share.batch) >= batch_size:
                    share.flush()
                number += 1
                progress(number, total)
            if all_good and shard.whole:
                good.append(shard.shard)
        share.flush()
    for one in good:  # whose outputs are on the disk now
        for name in _names(modality, settings, train, one)[:1]:
            cache.mark_filled(name, rank, world_size)
    cache.refresh()
    return report


@dataclass
class _Share:
    """The contents that this rank encodes: those that the cache lacks, in batches."""

    cache: FeatureCache
    writer: CacheWriter
    modality: str
    transform: Transform
    encode: Encode
    report: BuildReport
    rank: int
    world_size: int
    done: dict[bytes, bool] = field(default_factory=dict)
    """The contents that were met, by digest, and whether they are good."""
    batch: dict[bytes, Any] = field(default_factory=dict)

    def add(self, content: bytes) -> bool:
        """Take a content, unless it is another rank's; whether it is good, as far as known here."""
        digest = content_hash(content)
        if int.from_bytes(digest[-8:], "little") % self.world_size != self.rank:
            return True
        if digest not in self.done:
            self.done[digest] = self._decode(content)
        return self.done[digest]

    def _decode(self, content: bytes) -> bool:
        if content in self.cache:
            self.report.present += 1
            return True
        try:
            self.batch[content] = self.transform.decode_content(content, UNUSED, False)
        except BadSample as bad:  # the sample's other contents may be good
            self.report.bad[bad.reason] += 1
            return False
        return True

    def flush(self) -> None:
        """Encode and write what has come together."""
        if self.batch:
            _encode_batch(self.writer, self.modality, self.transform, self.encode, self.batch)
            self.report.encoded += len(self.batch)
            self.batch.clear()


@dataclass
class _ShardToRead:
    """A shard, where it is, how many of its samples have the modality, and whether no sample of the
    tar is left out.
    """

    source: int
    number: int
    shard: Shard
    samples: int
    whole: bool


def _shards_with(modality: str, sources: Sequence[tuple[str, Manifest]]) -> Iterator[_ShardToRead]:
    """Each shard that has `modality`, of a shard in several sources the first: sources that differ
    in their weights only hold the same contents, unless they show other parts of it.
    """
    seen = set()
    for source, (_, manifest) in enumerate(sources):
        for number, shard in enumerate(manifest.shards):
            sets = shard.modality_sets.items()
            samples = sum(count for name, count in sets if modality in name.split("+"))
            part = b"" if manifest.inside is None else manifest.inside[number].tobytes()
            if samples and (shard.path, part) not in seen:
                seen.add((shard.path, part))
                whole = sum(shard.modality_sets.values()) == shard.samples
                yield _ShardToRead(source, number, shard, samples, whole)


def _contents(
    reader: SampleReader, shard: _ShardToRead, modality: str, transform: Transform, train: bool
) -> Iterator[list[bytes] | BadSample]:
    """What there is to encode of each sample that has `modality`, or why it can't be used."""
    entries = reader.sources[shard.source][1].index(shard.number)
    has = [name for name in entries.set_names if modality in name.split("+")]
    for index in np.sort(np.concatenate([entries.members(name) for name in has])).tolist():
        try:
            raw = reader.read(shard.source, shard.number, index)
            if train:
                yield transform.contents(raw.files, raw.meta)
            else:
                yield [transform.choose(raw.files, raw.meta, UNUSED, False)]
        except BadSample as bad:
            yield bad


def _names(modality: str, settings: str | None, train: bool, shard: Shard) -> list[str]:
    """Under what names a shard may be marked as filled, first the one to mark it by: what training
    draws from holds what evaluation uses too. None where the settings aren't known.
    """
    if settings is None:
        return []
    about = [(shard.sha256, modality, settings, use) for use in (train, True)]
    return [blake2b(repr(a).encode(), digest_size=16).hexdigest() for a in dict.fromkeys(about)]


def _encode_batch(
    writer: CacheWriter,
    modality: str,
    transform: Transform,
    encode: Encode,
    batch: Mapping[bytes, Any],
) -> None:
    tokens_BLD, mask_BL, pooled_BD = encode(transform.collate(list(batch.values())))
    tokens, pooled = (t.detach().float().cpu().numpy() for t in (tokens_BLD, pooled_BD))
    mask = np.ones(tokens.shape[:2], np.bool_) if mask_BL is None else mask_BL.cpu().numpy()
    if not len(tokens) == len(mask) == len(pooled) == len(batch):
        raise ValueError(f"encoding {len(batch)} inputs of {modality!r} gave {len(tokens)} outputs")
    for row, content in enumerate(batch):
        # Without this batch's padding; a gap before the last valid token is a grid position.
        length = int(np.flatnonzero(mask[row]).max(initial=-1)) + 1
        output = CachedOutput(tokens[row, :length], mask[row, :length], pooled[row])
        writer.add(content, output)
