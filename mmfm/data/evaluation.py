"""A data set that evaluation reads again for every pass, with the labels that the pass needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmfm import distributed
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.data.sequential import SequentialData
from mmfm.progress import Bar
from mmfm.types import Batch, Label


class EvaluationSource:
    """The samples of `manifest` in batches, this rank's part; iterated without labels.

    `cache`: outputs of frozen encoders by modality, which take the place of their inputs.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        specs: Mapping[str, Mapping[str, Any]],
        *,
        batch_size: int,
        workers: int = 0,
        transforms: Mapping[str, Any] | None = None,
        cache: Mapping[str, FeatureCache] | None = None,
    ) -> None:
        self.name = name
        self.manifest = manifest
        self._specs = specs
        self._batch_size = batch_size
        self._workers = workers
        self._transforms = transforms
        self._cache = cache
        self._opened: SequentialData | None = None
        self._bad: Counter[str] = Counter()

    @property
    def label_names(self) -> dict[str, list[str]]:
        """Field of the samples' labels ▶ its class names."""
        return self.manifest.label_names

    def with_label(self, label: Label) -> SequentialData:
        """The same batches with ``labels``."""
        return self._open(label)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._open(None)

    def left_out(self) -> dict[str, int]:
        """Samples that could not be read, by reason, of all ranks. Collective.

        Every pass meets the same samples, so the pass that met most of them counts.
        """
        self._count()
        total: Counter[str] = Counter()
        for part in distributed.all_gather_object(self._bad):
            total += part
        return dict(sorted(total.items()))

    def _count(self) -> None:
        """Take over what the latest pass has left out."""
        if self._opened is not None:
            self._bad |= self._opened.bad_counts

    def _open(self, label: Label | None) -> SequentialData:
        self._count()
        data = _Watched(
            [(self.name, self.manifest)],
            self._specs,
            batch_size=self._batch_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            workers=self._workers,
            transforms=self._transforms,
            label=label,
            cache=self._cache,
        )
        self._opened = data
        return data


class _Watched(SequentialData):
    """Says how far a pass is, in batches."""

    def __iter__(self) -> Iterator[Batch]:
        with Bar("evaluation batches", show=distributed.is_main()) as bar:
            for done, batch in enumerate(super().__iter__(), 1):
                yield batch
                bar.update(done, len(self))
