"""The embeddings that hard negatives are searched among: every side of a head's pairs, of all
training samples, by the model as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm.data.every_sample import EverySample
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.heads.retrieval import RetrievalHead
from mmfm.objectives.base.pairs import embedding
from mmfm.train.run import Run
from mmfm.types import Batch, Read, to_device

BATCH_SIZE = 64

Sources = Sequence[tuple[str, Manifest]]


@dataclass
class Side:
    """One side of a pair, of all training samples that have it: embeddings [n,E], their numbers
    [n] ascending, groups [n], and codes [n] of which of its modalities each has.
    """

    x: Tensor
    number: NDArray[np.int64]
    group: NDArray[np.int64]
    code: NDArray[np.int64]


def encode_sides(
    run: Run, head: RetrievalHead, sources: Sources, caches: Mapping[str, FeatureCache]
) -> dict[Read, Side]:
    """Every side of the head's pairs, of all training samples. Collective.

    ConfigError where no sample has one of them.
    """
    task, reads = run.task, head.contrastive.reads
    modalities = {m for read in reads for m in read.modalities}
    data = EverySample(
        sources,
        {m: spec for m, spec in task.model.specs.items() if m in modalities},
        batch_size=BATCH_SIZE,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=run.recipe.data.workers,
        transforms={m: t for m, t in run.recipe.data.transforms.items() if m in modalities},
        cache={m: c for m, c in caches.items() if m in modalities},
    )
    device = distributed.device()
    task.to(device).eval()
    parts: dict[Read, list[tuple[NDArray[Any], ...]]] = {read: [] for read in reads}
    with torch.no_grad():
        for batch, numbers in data:
            features = task(to_device(batch, device), reads=reads).features
            for read in reads:
                there = embedding(features[read], read)
                if there is not None:
                    rows = there[1].cpu()
                    codes = _codes(batch, read)[rows].numpy()
                    group = batch["group"][rows].numpy()
                    x = there[0].float().cpu().numpy()
                    parts[read].append((x, numbers[rows.numpy()], group, codes))
    task.train()
    return {read: _gathered(read, parts[read], device) for read in reads}


def _codes(batch: Batch, read: Read) -> Tensor:
    """[B]: which of the modalities of `read` each sample has, as bits."""
    code = torch.zeros(len(batch["sample_id"]), dtype=torch.int64)
    for bit, modality in enumerate(read.modalities):
        if modality in batch["rows"]:
            code[batch["rows"][modality]] += 1 << bit
    return code


def _gathered(read: Read, parts: list[tuple[NDArray[Any], ...]], device: torch.device) -> Side:
    """The parts of all ranks, by number, each sample once; collective."""
    mine = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ranks = [part for part in distributed.all_gather_object(mine) if part]
    if not ranks:
        raise ConfigError(f"head.pairs: no training sample has {'+'.join(read.modalities)}")
    x, number, group, code = (np.concatenate(column) for column in zip(*ranks, strict=True))
    _, first = np.unique(number, return_index=True)
    return Side(torch.from_numpy(x[first]).to(device), number[first], group[first], code[first])
