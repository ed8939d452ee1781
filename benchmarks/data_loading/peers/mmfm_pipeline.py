"""mmfm: full random order among all samples of a block of shards, resumed by a number."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.data_loading.job import Job
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig, Pipeline, SourceConfig

PACKAGES = ("mmfm", "torch", "pillow")
REQUIREMENT = None
DECODINGS = ("mmfm",)


def prepare(job: Job) -> None:
    """Index the tars."""
    Manifest.open(job.data)


def batches(job: Job) -> Iterator[int]:
    config = DataConfig(
        sources={"set": SourceConfig(path=job.data, modalities=["image"])},
        global_batch_size=job.batch * job.world,
        workers=job.workers,
    )
    pipeline = Pipeline(
        config,
        {"image": {"size": job.size}},
        seed=0,
        rank=job.rank,
        world_size=job.world,
        micro_batch_size=job.batch,
        samples_seen=job.done // config.global_batch_size * config.global_batch_size,
    )
    for micro_batches in pipeline:
        for batch in micro_batches:
            yield len(batch["image"])


def save(job: Job) -> None:
    """`samples_seen` is all."""


resumed = batches
