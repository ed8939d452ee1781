"""Every training sample once, as evaluation sees it, with its number.

    for batch, numbers in EverySample(sources, specs, batch_size=64, rank=0, world_size=1):
        ...

As in `mmfm.data.sequential` a batch's samples have the same modalities, and every rank has equally
many batches; but a batch is the same whatever the number of ranks, so that what is computed of it
is, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm import distributed
from mmfm.data.collate import collate
from mmfm.data.decode import Sample, SampleDecoder, build_transforms
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.hard_negatives import Numbers
from mmfm.data.loading import load
from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader, hash63
from mmfm.data.sequential import Places, places_by_modalities
from mmfm.data.transforms.base import BadSample
from mmfm.types import Batch

Numbered = tuple[Batch, NDArray[np.int64]]
"""A batch and the numbers [B] of its samples, see `Numbers`."""

_PREFETCH = 2


class EverySample:
    """The samples of `sources` (name, manifest) that have any of the modalities in `specs`; bad
    ones are left out. `transforms`, `cache`: as in the pipeline.

    ValueError where no sample has any.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Manifest]],
        specs: Mapping[str, Mapping[str, Any]],
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        workers: int = 0,
        transforms: Mapping[str, Any] | None = None,
        cache: Mapping[str, FeatureCache] | None = None,
    ) -> None:
        groups = places_by_modalities(sources, list(specs))
        groups.pop((), None)
        if not groups:
            raise ValueError(f"no sample in {[n for n, _ in sources]} has any of {list(specs)}")
        self._workers = workers
        self._work = _Chunks(
            SampleReader(sources),
            SampleDecoder(build_transforms(specs, transforms), train=False, cache=cache),
            list(groups.values()),
            batch_size,
        )
        self._tasks = [
            (group, number % chunks)
            for group, chunks in enumerate(map(self._work.chunks, self._work.groups))
            for number in range(rank, -(-chunks // world_size) * world_size, world_size)
        ]

    def __iter__(self) -> Iterator[Numbered]:
        for numbered in load(
            self._work, self._tasks, workers=self._workers, prefetch=_PREFETCH, pin_memory=False
        ):
            distributed.place.work += 1
            yield numbered


class _Chunks:
    """(group, chunk) ▶ one numbered batch; sent to every worker."""

    def __init__(
        self, reader: SampleReader, decoder: SampleDecoder, groups: list[Places], size: int
    ) -> None:
        self.reader, self.decoder, self.groups, self.size = reader, decoder, groups, size
        self.numbers = Numbers(reader.sources)

    def chunks(self, places: Places) -> int:
        return -(-len(places) // self.size)

    def __getitem__(self, task: tuple[int, int]) -> Numbered:
        group, chunk = task
        places = self.groups[group]
        own = range(chunk * self.size, min((chunk + 1) * self.size, len(places)))
        samples: list[Sample] = []
        numbers: list[int] = []
        for tried, at in enumerate((*own, *range(len(places)))):
            # No batch may be empty: its rank would be out of step with the others.
            if samples and tried >= len(own):
                break
            source, shard, index = (int(v) for v in places[at])
            try:
                raw = self.reader.read(source, shard, index)
                samples.append(self.decoder.decode(raw, hash63(raw.sample_id)))
            except BadSample as problem:
                last = problem
                continue
            numbers.append(self.numbers.number(source, shard, index))
        if not samples:
            raise ValueError(f"all {len(places)} samples of a kind are bad, the last one: {last}")
        return collate(samples, self.decoder.transforms), np.array(numbers, dtype=np.int64)
