"""A suite: named sources and the tasks that run on them, read from YAML.

    name: animals
    sources:
      unseen_art: {path: data/emoji, splits: [pictures-twemoji]}
    tasks:
      picture_to_name:
        type: retrieval
        query: {source: unseen_art, modality: image}
        gallery: {source: unseen_art, modality: text}

Each task's ``type`` names a module below `mmfm_eval.tasks`, or with dots any other module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from mmfm.config import Component
from mmfm.data.remote.cache import CacheConfig
from mmfm.data.remote.fetch import RemoteConfig
from mmfm.data.subset import SubsetConfig

TASKS = "mmfm_eval.tasks"


@dataclass(kw_only=True)
class SourceConfig:
    """A folder of shards, which of its `splits`, and which of their `modalities` (all by default);
    `subset`: a part of the samples, as `mmfm.data.subset` draws it.
    """

    path: str
    splits: list[str] | None = None
    modalities: list[str] | None = None
    subset: SubsetConfig | None = None


@dataclass(kw_only=True)
class SuiteConfig:
    """`name`, `sources`, `tasks`; `seed` draws bootstrap resamples and untrained weights;
    `batch_size` is a rank's; `feature_cache` is the folder for outputs of frozen encoders with
    ``cache: true``.
    """

    name: str
    sources: dict[str, SourceConfig]
    tasks: dict[str, Annotated[Any, Component(TASKS)]]
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    feature_cache: str = "cache/features"
    cache: CacheConfig = field(default_factory=CacheConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How shards at a URL are kept and fetched."""

    def __post_init__(self) -> None:
        if not self.name.strip() or "/" in self.name or self.name.startswith("."):
            raise ValueError(
                f"name = {self.name!r}: it names a folder, so no '/' and no leading '.'"
            )
        if not self.tasks:
            raise ValueError("tasks is empty: there is nothing to evaluate")
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError("batch_size must be at least 1 and workers at least 0")
