"""What panels read: runs, sources, models and embeddings, each opened or computed once for the
page.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mmfm.data.collate import collate
from mmfm.data.decode import SampleDecoder, build_transforms
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.reader import RawSample, hash63
from mmfm.data.transforms.base import Transform
from mmfm.feature_caching import open_caches
from mmfm.next_item import Ranked
from mmfm.predictor import Encoded, Predictor, load
from mmfm.types import Batch, Label
from mmfm_eval.readings import HeadOutputs
from mmfm_eval.report.config import ReportConfig
from mmfm_eval.report.run import Run
from mmfm_eval.report.samples import Samples
from mmfm_eval.tasks.base import Rows


class Context:
    """The runs and sources of a report by name. What was made once is given again."""

    def __init__(self, config: ReportConfig, say: Callable[[str], None]) -> None:
        self.config = config
        self._say = say
        self.run = cache(self._open_run)
        self.samples = cache(self._open_samples)
        self.predictor = cache(self._load)
        self.encoded = cache(self._encode)
        self.transforms = cache(self._transforms)
        self.opened: dict[str, Samples] = {}

    def rng(self, purpose: str) -> np.random.Generator:
        """Draws the examples of one panel: a function of the page's seed and `purpose`."""
        return np.random.default_rng([self.config.seed, zlib.crc32(purpose.encode())])

    def rows(self, run: str, source: str, modality: str) -> Rows:
        """Embeddings of `modality` in a source with ids and groups, by the run's latest model.

        All modalities of the source are encoded together, once.
        """
        return self._rows(self.encoded(run, source), run, source, modality)

    def labelled(
        self, run: str, source: str, modality: str, field: str, names: Sequence[str]
    ) -> Rows:
        """The same of one modality alone, for a source that no panel shows, with labels: the place
        in `names` of what the field says, negative where it says nothing.
        """
        data = self._source(run, source, [modality]).with_label(Label(field, names))
        self._say(f"encoding {source} with {run}")
        encoded = self.predictor(run).encode_batches(data, [modality])
        return self._rows(encoded, run, source, modality)

    def _rows(self, encoded: Encoded, run: str, source: str, modality: str) -> Rows:
        if modality not in encoded.embedding:
            raise ValueError(f"source {source!r} has no sample with {modality!r} for run {run!r}")
        return Rows(
            encoded.embedding[modality],
            encoded.row_ids[modality],
            encoded.groups[modality],
            encoded.labels[modality],
        )

    def name(self, run: str, raw: RawSample) -> str:
        """The text of a sample that evaluation uses; its id where it has none."""
        transform = self.transforms(run).get("text")
        if transform is None or "text" not in raw.modalities:
            return raw.sample_id
        return transform.contents(raw.files, raw.meta)[0].decode("utf-8")

    def batch(self, run: str, raws: Sequence[RawSample]) -> Batch:
        """A batch of these samples with raw inputs, as evaluation reads them."""
        decoder = SampleDecoder(self.transforms(run), train=False)
        samples = [decoder.decode(raw, hash63(raw.sample_id)) for raw in raws]
        return collate(samples, decoder.transforms)

    def head_outputs(self, run: str, source: str) -> HeadOutputs:
        """What the head of a fine-tuned run says of a source."""
        predictor = self.predictor(run)
        if predictor.label is None or predictor.head is None:
            raise ValueError(f"run {run!r} has no classification head")
        label = predictor.label
        self._say(f"predicting {source} with {run}")
        data = self._source(run, source, list(predictor.specs)).with_label(label)
        found = predictor.logits_batches(data)
        logits = np.asarray(found.logits, dtype=np.float64)
        return HeadOutputs(logits, found.labels, found.groups, list(label.names), found.row_ids)

    def ranked(self, run: str, source: str) -> Ranked:
        """Where a run's recommendation head ranks the last item of each history of a source."""
        predictor = self.predictor(run)
        self._say(f"ranking {source} with {run}")
        return predictor.rank_batches(self._source(run, source, list(predictor.specs)))

    def left_out(self) -> dict[str, int]:
        """Samples that could not be read, by source."""
        return {name: s.left_out for name, s in self.opened.items() if s.left_out}

    def _open_run(self, name: str) -> Run:
        return Run(name, self.config.runs[name])

    def _open_samples(self, name: str) -> Samples:
        self.opened[name] = Samples(name, self.config.sources[name])
        return self.opened[name]

    def _load(self, run: str) -> Predictor:
        self._say(f"opening {run}")
        return load(self.run(run).checkpoint.path)

    def _transforms(self, run: str) -> dict[str, Transform]:
        predictor = self.predictor(run)
        return build_transforms(predictor.specs, predictor.transforms)

    def _encode(self, run: str, source: str) -> Encoded:
        predictor, samples = self.predictor(run), self.samples(source)
        there = _modalities(samples)
        modalities = [m for m in predictor.specs if m in there]
        if not modalities:
            raise ValueError(f"source {source!r} has nothing that run {run!r} has an encoder for")
        data = self._source(run, source, modalities)
        self._say(f"encoding {source} with {run}")
        return predictor.encode_batches(data, modalities)

    def _source(self, run: str, source: str, modalities: Sequence[str]) -> EvaluationSource:
        predictor, manifest = self.predictor(run), self.samples(source).manifest
        transforms = {m: t for m, t in predictor.transforms.items() if m in modalities}
        caches = open_caches(
            predictor.model,
            [(source, manifest)],
            Path(self.config.feature_cache),
            transforms=predictor.transforms,
            train=False,
            only=modalities,
        )
        return EvaluationSource(
            source,
            manifest,
            {m: predictor.specs[m] for m in modalities},
            batch_size=self.config.batch_size,
            transforms=transforms,
            cache=caches,
        )


def _modalities(samples: Samples) -> set[str]:
    return {m for s in samples.manifest.shards for k in s.modality_sets for m in k.split("+")}
