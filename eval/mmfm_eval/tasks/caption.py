"""The texts that a checkpoint writes of the samples of a source, against those that they have.

    type: caption
    source: held_out
    beams: 4

Of a caption head, or of a model that was pretrained with a caption objective. All texts of a sample
are its references. BLEU-4, ROUGE-L, CIDEr-D and the share of texts that are equal to a reference
(`mmfm_eval.metrics.captions`). Chance is the text of another sample, the baseline the most frequent
text for every sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmfm.data.reader import SampleReader
from mmfm.data.transforms.base import BadSample
from mmfm.predictor.captions import Writing, captioner, write_captions
from mmfm_eval.metrics import bootstrap, captions
from mmfm_eval.metrics.captions import Words
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import OwnPass, Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score, on_main

SHUFFLES = 10
SHOWN = 10


@dataclass(kw_only=True)
class Config:
    """`source`: whose samples are described; `train`: whose texts the most frequent one is of
    (unset: the same). `beams`, `length_penalty`, `max_length`: as the head has them unless given.
    """

    source: str
    train: str | None = None
    beams: int | None = None
    length_penalty: float | None = None
    max_length: int | None = None
    baseline: Literal["most_frequent", "untrained", "none"] = "most_frequent"

    def __post_init__(self) -> None:
        if self.beams is not None and self.beams < 1:
            raise ValueError(f"beams = {self.beams} must be at least 1")

    def build(self) -> Captions:
        return Captions(self)


@dataclass
class Found:
    """What is written of each sample, its references as they are, its group; and the most frequent
    text.
    """

    texts: list[str]
    references: list[list[str]]
    ids: list[str]
    groups: NDArray[np.int64]
    frequent: Words


@dataclass(frozen=True)
class CaptionReading(OwnPass):
    """What is written, with the references of rank 0, which alone scores."""

    train: str = ""
    how: Writing = field(default_factory=Writing)

    def run(self, predictor: Any, data: Mapping[str, Any]) -> Found:
        written = write_captions(predictor, data[self.source], self.how)
        transform = predictor.item_transforms[captioner(predictor.task).modality]
        found = on_main(
            lambda: (
                _texts_of(data[self.source], transform),
                _texts_of(data[self.train], transform) if self.train != self.source else None,
            )
        )
        own, others = found
        counts = Counter(captions.words(t) for ts in (others or own).values() for t in ts)
        kept = [i for i, name in enumerate(written.row_ids) if name in own]
        return Found(
            [written.texts[i] for i in kept],
            [own[written.row_ids[i]] for i in kept],
            [written.row_ids[i] for i in kept],
            written.groups[kept],
            # Of equally frequent ones the first in the alphabet.
            min(counts, key=lambda w: (-counts[w], w), default=()),
        )


class Captions(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.baseline = config.baseline
        self._reading = CaptionReading(
            config.source,
            train=config.train or config.source,
            how=Writing(config.beams, config.length_penalty, config.max_length),
        )

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        captioner(predictor.task).frame(self.config.max_length)  # type: ignore[attr-defined]

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        found: Found = encoded[self._reading]
        if not found.texts:
            raise ValueError(
                f"source {self.config.source!r}: no sample has both a text and what it is written "
                "from"
            )
        texts = [captions.words(text) for text in found.texts]
        references = [[captions.words(t) for t in ts] for ts in found.references]
        statistics = _statistics(texts, references)
        chance = self._chance(references)
        by_baseline = _values([found.frequent] * len(texts), references)
        estimates = bootstrap.estimate(statistics, found.groups, seed=self.seed)
        for metric, estimate in estimates.items():
            score = Score(metric, estimate.value, len(texts), estimate.ci95, chance[metric])
            if self.baseline == "most_frequent":
                score = score._replace(
                    baseline=by_baseline[metric], baseline_name="the most frequent text"
                )
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        found: Found = encoded[self._reading]
        shown = np.random.default_rng(self.seed).permutation(len(found.texts))[:SHOWN]
        return {
            "rows": len(found.texts),
            "references": sum(map(len, found.references)),
            "different_texts": len(set(found.texts)),
            "most_frequent": " ".join(found.frequent),
            "examples": [
                {"id": found.ids[i], "text": found.texts[i], "references": found.references[i]}
                for i in shown.tolist()
            ],
        }

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """The texts that share least with any of their references (by ROUGE-L)."""
        found: Found = encoded[self._reading]
        texts = [captions.words(text) for text in found.texts]
        references = [[captions.words(t) for t in ts] for ts in found.references]
        off = 1 - np.asarray(captions.rouge_l(texts, references))
        return [
            Mistake(
                source=self.config.source,
                id=found.ids[i],
                right=" / ".join(found.references[i][:5]),
                said=found.texts[i],
                wrong=float(off[i]),
            )
            for i in worst(off, most)
        ]

    def _chance(self, references: list[list[Words]]) -> dict[str, float]:
        """The mean over several ways to give each sample the first text of a random one."""
        rng = np.random.default_rng(self.seed)
        drawn = [
            _values([references[i][0] for i in rng.permutation(len(references))], references)
            for _ in range(SHUFFLES)
        ]
        return {metric: float(np.mean([d[metric] for d in drawn])) for metric in drawn[0]}


def _statistics(
    texts: list[Words], references: list[list[Words]]
) -> dict[str, bootstrap.Statistic]:
    found = captions.all_scores(texts, references)
    return {
        name: values
        if callable(values)
        else bootstrap.Share(values)
        if values.dtype == bool
        else bootstrap.mean(values)
        for name, values in found.items()
    }


def _values(texts: list[Words], references: list[list[Words]]) -> dict[str, float]:
    ones = np.ones((1, len(texts)))
    return {name: float(f(ones)[0]) for name, f in _statistics(texts, references).items()}


def _texts_of(source: Any, transform: Any) -> dict[str, list[str]]:
    """Id ▶ all texts of each sample that a source shows, if it has any."""
    reader = SampleReader([(source.name, source.manifest)])
    texts = {}
    for shard in range(len(source.manifest.shards)):
        for index in np.flatnonzero(source.manifest.index(shard).has_some()).tolist():
            try:
                raw = reader.read(0, shard, index)
                contents = transform.contents(raw.files, raw.meta)
            except BadSample:
                continue
            texts[raw.sample_id] = [content.decode("utf-8") for content in contents]
    return texts
