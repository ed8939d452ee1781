"""The items of a recommendation head: their ids, and what the encoders say of each."""

from __future__ import annotations

from pathlib import Path

import torch

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig
from mmfm.data.reader import SampleReader
from mmfm.data.sequential import NO_MODALITY, SequentialData
from mmfm.feature_caching import open_caches
from mmfm.heads.recommendation import HISTORY, ItemsConfig, RecommendationHead
from mmfm.predictor import Predictor
from mmfm.task import FinetuneTask
from mmfm.train.recipe import FinetuneConfig

BATCH_SIZE = 64


def open_items(items: ItemsConfig, data: DataConfig) -> Manifest:
    """The data set of the items; ConfigError where it can't be opened."""
    try:
        return Manifest.open(
            items.path,
            items.splits,
            cache=data.cache,
            remote=data.remote,
            transforms=data.transforms,
        )
    except ValueError as error:
        raise ConfigError(f"head.items: {error}") from None


def item_ids(items: ItemsConfig, data: DataConfig) -> list[str]:
    """The ids of all items in the order of the shards; ConfigError where one can't be read or
    comes twice.
    """
    manifest = open_items(items, data)
    reader = SampleReader([("items", manifest)])
    ids: dict[str, None] = {}
    for shard, described in enumerate(manifest.shards):
        for index in range(described.samples):
            try:
                sample = reader.read(0, shard, index)
            except ValueError as error:
                raise ConfigError(f"head.items: an item can't be read: {error}") from None
            if sample.sample_id in ids:
                raise ConfigError(f"head.items: {sample.place}: a second {sample.sample_id!r}")
            ids[sample.sample_id] = None
    return list(ids)


def check_histories(recipe: FinetuneConfig) -> None:
    """ConfigError where the data that are trained on hold no history."""
    for _, manifest, _ in recipe.data.open_sources():
        if any(HISTORY in name.split("+") for s in manifest.shards for name in s.modality_sets):
            return
    raise ConfigError(f"data.sources: no sample has a {HISTORY!r}: the head learns from those")


def encode_items(task: FinetuneTask, recipe: FinetuneConfig) -> None:
    """Put the encoders' outputs of every item into the head's table; collective.

    ValueError where an item can't be read, or none has one of the head's modalities.
    """
    head = task.head
    assert isinstance(head, RecommendationHead)
    if not head.modalities:
        return
    sources = [("items", open_items(recipe.head.items, recipe.data))]
    transforms = {m: t for m, t in recipe.data.transforms.items() if m in task.model.specs}
    caches = open_caches(
        task.model, sources, Path(recipe.run.feature_cache), transforms=transforms, train=False
    )
    data = SequentialData(
        sources,
        {m: task.model.specs[m] for m in head.modalities},
        batch_size=BATCH_SIZE,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        transforms={m: t for m, t in transforms.items() if m in head.modalities},
        cache={m: c for m, c in caches.items() if m in head.modalities},
    )
    task.to(distributed.device())
    found = Predictor(task).encode_batches(data, head.modalities, pooled=True)
    reasons = {r for part in distributed.all_gather_object(list(data.bad_counts)) for r in part}
    if reasons - {NO_MODALITY}:
        wrong = ", ".join(sorted(reasons - {NO_MODALITY}))
        raise ConfigError(f"head.items: there are items that can't be read: {wrong}")
    for modality in head.modalities:
        if modality not in found.pooled:
            raise ConfigError(f"head.modalities: no item has {modality!r}")
        rows = torch.tensor([head.rows[item] for item in found.row_ids[modality]])
        head.set_item_features(modality, rows, torch.from_numpy(found.pooled[modality]))
