"""Fill a feature cache: run an encoder over every content of a modality that the cache lacks.

The encoder comes in as a function, because the data know no model:

    build_cache(cache, sources, "image", transform, encode)  # encode: inputs ▶ tokens, mask, pooled
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from mmfm.data.feature_cache import CachedOutput, CacheWriter, FeatureCache, content_hash
from mmfm.data.manifest import Manifest
from mmfm.data.reader import RawSample, SampleReader
from mmfm.data.transforms.base import BadSample, Transform

Encode = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None, Tensor]]
"""The batch keys of one modality ▶ tokens [B, L, D], their mask [B, L] or None, pooled [B, D]."""


@dataclass
class BuildReport:
    """What `build_cache` did on this rank: contents encoded or there already, bad samples."""

    encoded: int
    present: int
    bad: Counter[str]


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Encode every content of `modality` in `sources` that `cache` lacks.

    All of a sample's texts are contents of their own; unless `train`, only the one content that
    evaluation uses is encoded. Rank r of W encodes the contents whose hash is r modulo W, so one
    that many samples share is encoded once. Inputs are those of evaluation, without augmentation.
    `progress` hears after each sample how many of all are done.

    There is no communication: call a barrier, then `cache.refresh()`, before the outputs of other
    ranks are read.
    """
    report = BuildReport(0, 0, Counter())
    done: set[bytes] = set()
    batch: dict[bytes, Any] = {}
    unused = np.random.default_rng(0)
    total = count_samples(modality, sources)
    with cache.writer(rank) as writer:

        def flush() -> None:
            if batch:
                _encode_batch(writer, modality, transform, encode, batch)
                report.encoded += len(batch)
                batch.clear()

        for number, read in enumerate(_samples_with(modality, sources)):
            try:
                raw = read()
                contents = (
                    transform.contents(raw.files, raw.meta)
                    if train
                    else [transform.choose(raw.files, raw.meta, unused, False)]
                )
            except BadSample as bad:
                contents = []
                if number % world_size == rank:  # every rank meets it; one counts it
                    report.bad[bad.reason] += 1
            for content in contents:
                digest = content_hash(content)
                if digest in done or int.from_bytes(digest[-8:], "little") % world_size != rank:
                    continue
                done.add(digest)
                if content in cache:
                    report.present += 1
                    continue
                try:
                    batch[content] = transform.decode_content(content, unused, False)
                except BadSample as bad:  # the sample's other contents may be good
                    report.bad[bad.reason] += 1
            if len(batch) >= batch_size:
                flush()
            progress(number + 1, total)
        flush()
    cache.refresh()
    return report


def count_samples(modality: str, sources: Sequence[tuple[str, Manifest]]) -> int:
    """How many samples of `sources` have `modality`; those of a shard in two sources count once."""
    return sum(
        count
        for source, shard in _shards_with(modality, sources)
        for name, count in sources[source][1].shards[shard].modality_sets.items()
        if modality in name.split("+")
    )


def _shards_with(
    modality: str, sources: Sequence[tuple[str, Manifest]]
) -> Iterator[tuple[int, int]]:
    """(source, shard) of each shard that has `modality`, of a shard in several sources the first:
    sources that differ in their weights only hold the same contents.
    """
    seen = set()
    for source, (_, manifest) in enumerate(sources):
        for number, shard in enumerate(manifest.shards):
            has = any(modality in name.split("+") for name in shard.modality_sets)
            if has and shard.path not in seen:
                seen.add(shard.path)
                yield source, number


def _samples_with(
    modality: str, sources: Sequence[tuple[str, Manifest]]
) -> Iterator[Callable[[], RawSample]]:
    """What reads each sample that has `modality`; reading may raise BadSample."""
    reader = SampleReader(sources)
    for source, shard in _shards_with(modality, sources):
        entries = sources[source][1].index(shard)
        has = [modality in name.split("+") for name in entries.set_names]
        for index in range(len(entries)):
            if has[entries.set_codes[index]]:
                yield partial(reader.read, source, shard, index)


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
