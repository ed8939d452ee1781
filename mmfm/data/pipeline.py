"""The training data: for each global step, this rank's micro-batches.

    pipeline = Pipeline(config, specs, seed=1, rank=0, world_size=1)
    for micro_batches in pipeline:  # a list of batches, one list for each step
        ...

What a step holds is a pure function of the step (`mmfm.data.order`), so resuming is a seek to
`samples_seen`, and neither the number of worker processes nor that of ranks changes a sample. A bad
sample's place is taken by another one of its kind, so no other place shifts.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

from mmfm.config import ConfigError
from mmfm.data.collate import collate
from mmfm.data.decode import TRANSFORMS, Sample, SampleDecoder, build_transforms
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.hard_negatives import NegativeDraws, NegativeTable
from mmfm.data.loading import load
from mmfm.data.manifest import Manifest
from mmfm.data.order import Draw, Order
from mmfm.data.quarantine import BadRecord, Quarantine
from mmfm.data.reader import SampleReader
from mmfm.data.remote.cache import CacheConfig
from mmfm.data.remote.fetch import RemoteConfig, Traffic
from mmfm.data.remote.prefetch import Prefetcher, check_cache
from mmfm.data.subset import SubsetConfig, subset_of
from mmfm.data.transforms.base import BadSample
from mmfm.types import Batch, Label

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 64


class Place(Protocol):
    """Where a data set lies: what `Manifest.open` takes, and which part of it is meant."""

    path: str
    splits: list[str] | None
    modalities: list[str] | None
    subset: SubsetConfig | None


@dataclass(kw_only=True)
class SourceConfig:
    """One data set. `path`, `splits`, `modalities`: what `Manifest.open` takes; `path` may be a
    URL. `subset`: a part of it, as `mmfm.data.subset` draws it.

    `weight`: its share, relative to the other sources' (unset: its number of samples).
    `masked_view`: whether its samples enter the masked view; false spares the time where masked
    objectives have enough in other sources.
    """

    path: str
    splits: list[str] | None = None
    modalities: list[str] | None = None
    subset: SubsetConfig | None = None
    weight: float | None = None
    masked_view: bool = True


@dataclass(kw_only=True)
class DataConfig:
    """`workers`: processes that decode, for each rank; 0 decodes in the training process itself."""

    sources: dict[str, SourceConfig]
    global_batch_size: int
    streams: int = 8
    workers: int = 2
    prefetch: int = 2
    """Micro-batches that each worker makes ahead."""
    block_shards: int = 16
    """Shards among which samples are mixed."""
    allow_rare_strata: bool = False
    transforms: dict[str, Annotated[Any, TRANSFORMS]] = field(default_factory=dict)
    max_sample_bytes: int = 200_000_000
    max_bad_share: float = 0.01
    """A run stops when more than this share of the samples it has read were bad."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How shards at a URL are kept and fetched."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name at least one data set")
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError(f"workers = {self.workers}, prefetch = {self.prefetch}: too small")
        if self.max_sample_bytes < 1:
            raise ValueError(f"max_sample_bytes = {self.max_sample_bytes} must be at least 1")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share = {self.max_bad_share} is a share, from 0 to 1")

    def open(self, source: Place) -> Manifest:
        """The data set of a source, of these or another. ValueError where it can't be opened."""
        opened = Manifest.open(
            source.path,
            source.splits,
            source.modalities,
            self.cache,
            self.remote,
            self.transforms,
        )
        return opened if source.subset is None else subset_of(opened, source.subset)

    def open_sources(self) -> list[tuple[str, Manifest, float | None]]:
        """(name, manifest, weight) of each source. ConfigError where one can't be opened."""
        opened = []
        for name, source in self.sources.items():
            try:
                manifest = self.open(source)
            except ValueError as error:
                raise ConfigError(f"data.sources.{name}: {error}") from None
            opened.append((name, manifest, source.weight))
        return opened


class _Made(NamedTuple):
    """A micro-batch, what was bad on the way to it, how many samples were read for it, and what was
    fetched by this process since the last one.
    """

    batch: Batch
    bad: list[BadRecord]
    read: int
    traffic: list[dict[str, Any]]


class _MicroBatches:
    """(step, number) ▶ one micro-batch of this rank; sent to every worker."""

    def __init__(
        self,
        order: Order,
        reader: SampleReader,
        decoder: SampleDecoder,
        streams: list[list[int]],
        masked_view: list[bool],
        negatives: NegativeTable | None,
    ) -> None:
        self.order = order
        self.reader = reader
        self.decoder = decoder
        self.streams = streams
        self.masked_view = masked_view  # by source
        self.negatives = None if negatives is None else NegativeDraws(negatives, reader, decoder)

    def __getitem__(self, task: tuple[int, int]) -> _Made:
        step, number = task
        bad: list[BadRecord] = []
        samples: list[Sample] = []
        negatives: list[Sample] = []
        for stream in self.streams[number]:
            for draw in self.order.stream_slots(step, stream):
                sample, place = self._sample(draw, bad)
                samples.append(sample)
                if self.negatives is not None:
                    negatives += self.negatives.of(sample, draw, place, bad)
        samples += negatives
        batch = collate(samples, self.decoder.transforms)
        return _Made(batch, bad, len(samples) + len(bad), _take_traffic(self.reader))

    def _sample(self, draw: Draw, bad: list[BadRecord]) -> tuple[Sample, tuple[int, int, int]]:
        """The sample of a place, or the first good one of those that may replace it, and where it
        was read: source, shard, index.
        """
        candidate = draw
        for attempt in range(MAX_REPLACEMENTS + 1):
            try:
                place = candidate.source, candidate.shard, candidate.index
                raw = self.reader.read(*place)
                sample = self.decoder.decode(raw, draw.seed)
                sample.masked_view = self.masked_view[draw.source]
                sample.stream = draw.stream
                return sample, place
            except BadSample as problem:
                bad.append(BadRecord.of(problem))
                last = problem
            try:
                candidate = self.order.replacement(draw, attempt)
            except ValueError as error:
                raise ValueError(f"{error}, the last one: {last}") from None
        stratum = self.order.strata[draw.stratum]
        reasons = Counter(record.reason for record in bad[-MAX_REPLACEMENTS:])
        raise ValueError(
            f"data.sources.{stratum.source_name}: a bad sample ({bad[-MAX_REPLACEMENTS - 1]}) in "
            f"{stratum.modality_set!r} and {MAX_REPLACEMENTS} that could replace it are bad: "
            + ", ".join(f"{n} × {reason}" for reason, n in reasons.most_common())
        )


class Pipeline:
    """This rank's micro-batches, step by step, from `samples_seen` on, without end.

    `specs`: modality ▶ spec of its encoder. `micro_batch_size`: a multiple of `global_batch_size /
    streams` (None: the rank's whole share). `label`: gives ``labels``.
    `cache`: modality ▶ outputs of a frozen encoder, which take the place of its inputs; `raw`:
    modalities whose inputs are given all the same. `negatives`: the hard ones that stand behind the
    samples of each micro-batch. `quarantine`: file for bad samples.
    ConfigError where the settings, the data and the number of ranks don't fit.
    """

    def __init__(
        self,
        config: DataConfig,
        specs: Mapping[str, Mapping[str, Any]],
        *,
        seed: int,
        rank: int,
        world_size: int,
        micro_batch_size: int | None = None,
        samples_seen: int = 0,
        label: Label | None = None,
        cache: Mapping[str, FeatureCache] | None = None,
        raw: Collection[str] = (),
        negatives: NegativeTable | None = None,
        quarantine: Path | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.config = config
        sources = config.open_sources()
        size = config.global_batch_size
        self.order = Order(
            sources, seed, config.streams, size, config.block_shards, config.allow_rare_strata
        )
        self.order.check_world_size(world_size)
        check_cache(self.order, config.cache, world_size)
        self._check_modalities(specs)
        self._groups = _stream_groups(self.order, rank, world_size, micro_batch_size)
        self.micro_batch_size = len(self._groups[0]) * self.order.slots
        if samples_seen % size:
            raise ValueError(
                f"samples_seen = {samples_seen} is no multiple of data.global_batch_size = {size}"
            )
        self.samples_seen = samples_seen
        self.samples_read = 0
        self._traffic = Traffic()
        self.negatives = negatives
        self._quarantine = Quarantine(quarantine, rank)
        self._pin_memory = pin_memory
        transforms = build_transforms(specs, config.transforms)
        self._dataset = _MicroBatches(
            order=self.order,
            reader=SampleReader([(n, m) for n, m, _ in sources], config.max_sample_bytes),
            decoder=SampleDecoder(transforms, train=True, label=label, cache=cache, raw=raw),
            streams=self._groups,
            masked_view=[source.masked_view for source in config.sources.values()],
            negatives=negatives,
        )

    @property
    def bad_counts(self) -> Counter[str]:
        """Bad samples of this rank by reason, of the `samples_read` since this object was made."""
        return self._quarantine.counts

    @property
    def fetches(self) -> bool:
        """Whether a source is at a URL, so that there may be `traffic`."""
        return any(manifest.remote is not None for _, manifest in self._dataset.reader.sources)

    @property
    def traffic(self) -> Traffic:
        """What this rank has fetched of shards at URLs, by its workers and ahead of them, since
        this object was made. `waited_s` sums over the workers.
        """
        for taken in _take_traffic(self._dataset.reader):
            self._traffic.add(**taken)
        return self._traffic

    def __iter__(self) -> Iterator[list[Batch]]:
        """Steps from `samples_seen` on; after each, `samples_seen` counts it."""
        first = self.samples_seen // self.config.global_batch_size
        made = load(
            self._dataset,
            _tasks(first, len(self._groups)),
            workers=self.config.workers,
            prefetch=self.config.prefetch,
            pin_memory=self._pin_memory,
        )
        streams = [stream for group in self._groups for stream in group]
        with Prefetcher(self.order, streams, self.config.remote.connections) as ahead:
            for step in itertools.count(first):
                ahead.advance(step)
                micro_batches = []
                for _ in self._groups:
                    result = next(made)
                    self.samples_read += result.read
                    self._quarantine.add(result.bad, step)
                    for taken in result.traffic:
                        self._traffic.add(**taken)
                    micro_batches.append(result.batch)
                self.samples_seen = (step + 1) * self.config.global_batch_size
                yield micro_batches

    def _check_modalities(self, specs: Mapping[str, Any]) -> None:
        """Refuse data that have nothing for the model; name the strata that have nothing for it."""
        idle = [s for s in self.order.strata if not set(s.modality_set.split("+")) & set(specs)]
        names = ", ".join(f"{s.source_name}:{s.modality_set}" for s in idle)
        if len(idle) == len(self.order.strata):
            raise ConfigError(
                f"data.sources: none has a modality of the model ({', '.join(specs)}), only {names}"
            )
        if idle:
            logger.warning("no modality of the model in %s: its samples train nothing", names)


def _stream_groups(
    order: Order, rank: int, world_size: int, micro_batch_size: int | None
) -> list[list[int]]:
    """The streams of each micro-batch of a rank; all have equally many."""
    streams = list(range(rank, order.streams, world_size))
    share = len(streams) * order.slots
    size = share if micro_batch_size is None else micro_batch_size
    if size < 1 or size % order.slots or share % size:
        valid = [n * order.slots for n in range(1, len(streams) + 1) if len(streams) % n == 0]
        raise ConfigError(
            f"train.micro_batch_size = {size}: a rank's {share} samples of a step come in whole "
            f"streams of {order.slots}, so it can be one of {', '.join(map(str, valid))}"
        )
    count = size // order.slots
    return [streams[i : i + count] for i in range(0, len(streams), count)]


def _take_traffic(reader: SampleReader) -> list[dict[str, Any]]:
    """What was fetched by this process for each source at a URL since the last call."""
    remotes = [manifest.remote for _, manifest in reader.sources if manifest.remote is not None]
    return [remote.traffic.take() for remote in remotes]


def _tasks(first_step: int, micro_batches: int) -> Iterator[tuple[int, int]]:
    for step in itertools.count(first_step):
        for number in range(micro_batches):
            yield step, number
