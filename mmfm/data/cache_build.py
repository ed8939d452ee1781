"""Fill a feature cache: run an encoder over every content of a modality that the cache lacks.

The encoder comes in as a function, because the data know no model:

    build_cache(cache, sources, "image", transform, encode)  # encode: inputs ▶ tokens, mask, pooled

A shard that was encoded whole is remembered in the cache, so that the next start doesn't read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor

from mmfm.data.feature_cache import CachedOutput, CacheWriter, FeatureCache, content_hash
from mmfm.data.manifest import Manifest, Shard
from mmfm.data.reader import RawSample, SampleReader
from mmfm.data.transforms.base import BadSample, Transform

Encode = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None, Tensor]]
"""The batch keys of one modality ▶ tokens [B, L, D], their mask [B, L] or None, pooled [B, D]."""


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
    names = partial(_names, modality, settings, train)
    every = list(_shards_with(modality, sources))
    shards = [s for s in every if not any(map(cache.filled, names(s.shard)))]
    report = BuildReport(0, 0, Counter(), len(every) - len(shards))
    done: set[bytes] = set()
    batch: dict[bytes, Any] = {}
    unused = np.random.default_rng(0)
    total, number = sum(s.samples for s in shards), 0
    whole = []
    with cache.writer(rank) as writer:

        def flush() -> None:
            if batch:
                _encode_batch(writer, modality, transform, encode, batch)
                report.encoded += len(batch)
                batch.clear()

        def add(content: bytes) -> None:
            digest = content_hash(content)
            if digest in done or int.from_bytes(digest[-8:], "little") % world_size != rank:
                return
            done.add(digest)
            if content in cache:
                report.present += 1
                return
            try:
                batch[content] = transform.decode_content(content, unused, False)
            except BadSample as bad:  # the sample's other contents may be good
                report.bad[bad.reason] += 1

        for shard in shards:
            bad_before = report.bad.total()
            for read in shard.reads():
                try:
                    raw = read()
                    if train:
                        contents = transform.contents(raw.files, raw.meta)
                    else:
                        contents = [transform.choose(raw.files, raw.meta, unused, False)]
                except BadSample as bad:
                    contents = []
                    if number % world_size == rank:  # every rank meets it; one counts it
                        report.bad[bad.reason] += 1
                for content in contents:
                    add(content)
                if len(batch) >= batch_size:
                    flush()
                number += 1
                progress(number, total)
            if report.bad.total() == bad_before:
                whole.append(shard)
        flush()
    for shard in whole:  # whose outputs are on the disk now
        for name in names(shard.shard)[:1]:
            cache.mark_filled(name, rank, world_size)
    cache.refresh()
    return report


@dataclass
class _ShardToRead:
    """A shard of a source with the places of the samples that have the modality."""

    shard: Shard
    samples: int
    reads: Callable[[], Iterator[Callable[[], RawSample]]]
    """What reads each of them; reading may raise BadSample."""


def _shards_with(modality: str, sources: Sequence[tuple[str, Manifest]]) -> Iterator[_ShardToRead]:
    """Each shard that has `modality`, of a shard in several sources the first: sources that differ
    in their weights only hold the same contents.
    """
    reader = SampleReader(sources)
    seen = set()
    for source, (_, manifest) in enumerate(sources):
        for number, shard in enumerate(manifest.shards):
            sets = shard.modality_sets.items()
            samples = sum(count for name, count in sets if modality in name.split("+"))
            if samples and shard.path not in seen:
                seen.add(shard.path)
                reads = partial(_reads, reader, source, number, modality)
                yield _ShardToRead(shard, samples, reads)


def _reads(
    reader: SampleReader, source: int, shard: int, modality: str
) -> Iterator[Callable[[], RawSample]]:
    entries = reader.sources[source][1].index(shard)
    has = [modality in name.split("+") for name in entries.set_names]
    for index in range(len(entries)):
        if has[entries.set_codes[index]]:
            yield partial(reader.read, source, shard, index)


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
