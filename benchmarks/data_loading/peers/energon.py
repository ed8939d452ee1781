"""megatron-energon: the same tars, a buffer of 1,000 samples, state of its savable loader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    SavableDataLoader,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

from benchmarks.data_loading.job import Job
from benchmarks.data_loading.pictures import content_of, decoding

PACKAGES = ("megatron-energon", "webdataset", "torch", "pillow")
REQUIREMENT = "megatron-energon==7.4.1"
DECODINGS = ("usual", "mmfm")


@edataclass
class Picture(Sample):
    image: Any


@stateless
def cook(sample: dict[str, Any]) -> Picture:
    return Picture(**basic_sample_keys(sample), image=content_of(sample))


class Encoder(DefaultTaskEncoder):
    """Bytes of pictures ▶ a batch of tensors."""

    cookers = [Cooker(cook)]  # noqa: RUF012 - energon's way
    decoder = None

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.decode = decoding(job.decoding, job.size)

    @stateless
    def encode_sample(self, sample: Picture) -> Picture:
        sample.image = self.decode(sample.image)
        return sample

    @stateless
    def batch(self, samples: list[Picture]) -> torch.Tensor:
        return torch.stack([sample.image for sample in samples])


def prepare(job: Job) -> None:
    folder = Path(job.prepared)
    folder.mkdir()
    names = []
    for tar in sorted(Path(job.data).glob("*.tar")):
        os.link(tar, folder / tar.name)
        names.append(tar.name)
    WebdatasetPreparator.prepare_dataset(
        folder, names, split_parts_ratio=[("train", 1.0), ("val", 0), ("test", 0)], workers=2
    )
    (folder / ".nv-meta/dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    )


def loader(job: Job) -> SavableDataLoader[torch.Tensor]:
    dataset = get_train_dataset(
        job.prepared,
        worker_config=WorkerConfig(rank=job.rank, world_size=job.world, num_workers=job.workers),
        batch_size=job.batch,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        task_encoder=Encoder(job),
    )
    return get_savable_loader(dataset, watchdog_timeout_seconds=None)


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
    torch.save(made.save_state_rank(), state(job))


def resumed(job: Job) -> Iterator[int]:
    made = loader(job)
    made.restore_state_rank(torch.load(state(job), weights_only=False))  # made by `save`
    for pictures in made:
        yield len(pictures)


def state(job: Job) -> Path:
    return Path(f"{job.prepared}-{job.workers}-{job.done}.pt")
