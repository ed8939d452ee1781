"""mosaicml-streaming: MDS shards with the same files, its default shuffle, state of the loader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from benchmarks.data_loading.job import Job
from benchmarks.data_loading.pictures import content_of, decoding

PACKAGES = ("mosaicml-streaming", "torch", "pillow")
REQUIREMENT = "mosaicml-streaming==0.13.0"
DECODINGS = ("usual", "mmfm")


class Pictures(StreamingDataset):
    def __init__(self, job: Job) -> None:
        super().__init__(local=job.prepared, batch_size=job.batch, shuffle=True)
        self.decode = decoding(job.decoding, job.size)

    def __getitem__(self, at: Any) -> Any:
        return self.decode(super().__getitem__(at)["image"])


def prepare(job: Job) -> None:
    tars = sorted(str(tar) for tar in Path(job.data).glob("*.tar"))
    columns = {"key": "str", "image": "bytes"}
    with MDSWriter(out=job.prepared, columns=columns) as out:
        for sample in wds.WebDataset(tars, shardshuffle=False):
            out.write({"key": sample["__key__"], "image": content_of(sample)})


def loader(job: Job) -> StreamingDataLoader:
    if job.world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # as in training: it uses the barriers
    clean_stale_shared_memory()
    return StreamingDataLoader(Pictures(job), batch_size=job.batch, num_workers=job.workers)


def batches(job: Job) -> Iterator[int]:
    for pictures in loader(job):
        yield len(pictures)


def save(job: Job) -> None:
    job.decoding = "skip"
    made = loader(job)
    seen = 0
    for pictures in made:
        seen += len(pictures)
        if seen >= job.done:
            break
    state(job).write_text(json.dumps(made.state_dict()))


def resumed(job: Job) -> Iterator[int]:
    made = loader(job)
    made.load_state_dict(json.loads(state(job).read_text()))
    for pictures in made:
        yield len(pictures)


def state(job: Job) -> Path:
    return Path(f"{job.prepared}-{job.workers}-{job.done}.json")
