"""The raw samples of a source, by id: what the page shows of them is what the shards hold."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from mmfm.data.manifest import MANIFEST, Manifest
from mmfm.data.reader import RawSample, SampleReader
from mmfm.data.subset import subset_of
from mmfm.data.transforms.base import BadSample
from mmfm_eval.report.missing import Missing
from mmfm_eval.suite import SourceConfig


class Samples:
    """A source: its `manifest` and its samples. `left_out`: how many could not be read."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name = name
        self.config = config
        try:
            opened = Manifest.open(config.path, config.splits, config.modalities)
            self.manifest = subset_of(opened, config.subset) if config.subset else opened
        except ValueError as error:
            if Path(config.path).exists():
                raise ValueError(f"sources.{name}: {error}") from None
            raise Missing(f"There is no data in {config.path} yet: {error}") from None
        self._reader = SampleReader([(name, self.manifest)])
        self.left_out = 0

    @property
    def folder(self) -> Path:
        path = Path(self.config.path)
        return path.parent if path.name == MANIFEST else path

    @cached_property
    def about(self) -> dict[str, Any]:
        """manifest.json as it stands; empty for plain tars."""
        path = self.folder / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Id ▶ (shard, index in the shard), in the order of the shards."""
        found = {}
        for shard in range(len(self.manifest.shards)):
            entries = self.manifest.index(shard)
            for index in range(len(entries)):
                if entries.modalities(index) is None:
                    continue  # outside the subset
                try:
                    found[self._reader.read(0, shard, index).sample_id] = (shard, index)
                except BadSample:
                    self.left_out += 1
        return found

    def read(self, sample_id: str) -> RawSample:
        """The sample's files and metadata. ValueError where there is none of that id."""
        if sample_id not in self.places:
            raise ValueError(f"source {self.name} has no sample {sample_id!r}")
        return self.at(*self.places[sample_id])

    def at(self, shard: int, index: int) -> RawSample:
        """The sample at a place. Raises BadSample."""
        return self._reader.read(0, shard, index)
