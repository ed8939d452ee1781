"""webdataset: shards in random order, samples mixed in a buffer of 1,000; it can't resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import webdataset as wds

from benchmarks.data_loading.job import Job
from benchmarks.data_loading.pictures import content_of, decoding, resize

PACKAGES = ("webdataset", "torch", "pillow")
REQUIREMENT = None
DECODINGS = ("usual", "mmfm")


def prepare(job: Job) -> None:
    """It reads the tars as they are."""


def batches(job: Job) -> Iterator[int]:
    tars = sorted(str(tar) for tar in Path(job.data).glob("*.tar"))
    samples = wds.WebDataset(
        tars, shardshuffle=len(tars), nodesplitter=wds.split_by_node, seed=0
    ).shuffle(1000)
    if job.done:
        samples = samples.slice(job.done // job.world // max(1, job.workers), None)
    if job.decoding == "usual":
        samples = samples.decode("pil", only=["jpg", "png"]).to_tuple("jpg;png")
        samples = samples.map_tuple(resize(job.size))
    else:
        decode = decoding(job.decoding, job.size)
        samples = samples.map(lambda sample: (decode(content_of(sample)),))
    loader = wds.WebLoader(
        samples.batched(job.batch),
        batch_size=None,
        num_workers=job.workers,
        multiprocessing_context="fork" if job.workers else None,
    )
    for (pictures,) in loader:
        yield len(pictures)


def save(job: Job) -> None:
    """There is no state: its samples are skipped."""


resumed = batches
