"""The evaluation data: every sample once, as it is, in batches that fall alike on all ranks.

    for batch in SequentialData([("art", manifest)], specs, batch_size=64):
        ...

Always the first text and no augmentation. Samples are grouped by which of the model's modalities
they have, and a batch never mixes groups: batch i has the same modalities on every rank, so ranks
that share parameters run the same modules. Where a group doesn't divide, samples come again at its
end; drop them by ``sample_id``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfm import distributed
from mmfm.data.collate import collate
from mmfm.data.decode import Sample, SampleDecoder, build_transforms
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.loading import load
from mmfm.data.manifest import Manifest
from mmfm.data.quarantine import BadRecord, Quarantine
from mmfm.data.reader import SampleReader, hash63
from mmfm.data.transforms.base import BadSample
from mmfm.types import Batch, Label

_PREFETCH = 2
NO_MODALITY = "no modality of the model"

Places = NDArray[np.int64]
"""[n, 3]: source, shard, index in the shard."""


class _Made(NamedTuple):
    batch: Batch
    bad: list[BadRecord]


class SequentialData:
    """All samples of `sources` (name, manifest), rank r of W taking every W-th of a group.

    Every rank yields ``len(self)`` batches of at most `batch_size` samples, none of them empty. Bad
    samples are left out and counted in `bad_counts` (of this rank and the latest pass); so are, on
    rank 0, those without any modality in `specs`. `transforms`, `label`, `cache`, `raw`: as in the
    pipeline; `quarantine`: file that lists the bad ones.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Manifest]],
        specs: Mapping[str, Mapping[str, Any]],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        transforms: Mapping[str, Any] | None = None,
        label: Label | None = None,
        cache: Mapping[str, FeatureCache] | None = None,
        raw: Sequence[str] = (),
        quarantine: Path | None = None,
        max_sample_bytes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be positive")
        self.rank = rank
        self.workers = workers
        self.groups = places_by_modalities(sources, list(specs))
        self.without = len(self.groups.pop((), ()))
        if not self.groups:
            raise ValueError(f"no sample in {[n for n, _ in sources]} has any of {list(specs)}")
        self._work = _Batches(
            reader=SampleReader(sources, max_sample_bytes),
            decoder=SampleDecoder(
                build_transforms(specs, transforms), train=False, label=label, cache=cache, raw=raw
            ),
            groups=list(self.groups.values()),
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
        )
        self._path = quarantine
        self._quarantine = Quarantine(quarantine, rank)

    @property
    def bad_counts(self) -> Counter[str]:
        """Samples left out on this rank in the latest pass, by reason."""
        return self._quarantine.counts

    def __len__(self) -> int:
        """Batches, the same on every rank."""
        return len(self._work.tasks())

    def __iter__(self) -> Iterator[Batch]:
        self._quarantine = Quarantine(self._path, self.rank)
        if self.without and self.rank == 0:
            self._quarantine.counts[NO_MODALITY] = self.without
        tasks = self._work.tasks()
        made = load(self._work, tasks, workers=self.workers, prefetch=_PREFETCH, pin_memory=False)
        for result in made:
            self._quarantine.add(result.bad, None)
            distributed.place.work += 1
            yield result.batch


class _Batches:
    """(group, number) ▶ one batch of this rank; sent to every worker."""

    def __init__(
        self,
        reader: SampleReader,
        decoder: SampleDecoder,
        groups: list[Places],
        rank: int,
        world_size: int,
        batch_size: int,
    ) -> None:
        self.reader = reader
        self.decoder = decoder
        self.groups = groups
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size

    def tasks(self) -> list[tuple[int, int]]:
        return [
            (group, number)
            for group, places in enumerate(self.groups)
            for number in range(-(-self._share(places) // self.batch_size))
        ]

    def __getitem__(self, task: tuple[int, int]) -> _Made:
        group, number = task
        places = self.groups[group]
        first = number * self.batch_size
        last = min(first + self.batch_size, self._share(places))
        samples: list[Sample] = []
        bad: list[BadRecord] = []
        for at in range(first, last):
            at = at * self.world_size + self.rank
            try:
                samples.append(self._sample(places[at % len(places)]))
            except BadSample as problem:
                if at < len(places):  # one that comes again was reported where it came first
                    bad.append(BadRecord.of(problem))
        if not samples:
            samples = [self._any_good(places, first)]
        return _Made(collate(samples, self.decoder.transforms), bad)

    def _share(self, places: Places) -> int:
        """Samples of a group that each rank takes."""
        return -(-len(places) // self.world_size)

    def _sample(self, place: NDArray[np.int64]) -> Sample:
        source, shard, index = (int(v) for v in place)
        raw = self.reader.read(source, shard, index)
        return self.decoder.decode(raw, hash63(raw.sample_id))

    def _any_good(self, places: Places, start: int) -> Sample:
        """A sample for a batch that would be empty, which would leave its rank out of step."""
        for offset in range(len(places)):
            try:
                return self._sample(places[(start + offset) % len(places)])
            except BadSample as problem:
                last = problem
        raise ValueError(f"all {len(places)} samples of a kind are bad, the last one: {last}")


def places_by_modalities(
    sources: Sequence[tuple[str, Manifest]], modalities: Sequence[str]
) -> dict[tuple[str, ...], Places]:
    """modalities of the model ▶ the samples that have just these, in the order of the shards."""
    found: dict[tuple[str, ...], list[Places]] = {}
    for source, (_, manifest) in enumerate(sources):
        for shard in range(len(manifest.shards)):
            index = manifest.index(shard)
            for name in index.set_names:
                members = index.members(name)
                has = set(name.split("+"))
                key = tuple(m for m in modalities if m in has)
                places = np.empty((len(members), 3), np.int64)
                places[:, 0], places[:, 1], places[:, 2] = source, shard, members
                found.setdefault(key, []).append(places)
    return {key: np.concatenate(found[key]) for key in sorted(found)}
