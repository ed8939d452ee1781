"""What kNN and linear probe share: frozen features with labels, of a source to learn from and one
to be judged on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmfm.types import IGNORE_INDEX
from mmfm_eval.metrics import bootstrap, classification
from mmfm_eval.readings import Ints, Reading
from mmfm_eval.tasks.base import Evaluator, Rows, Score, rows_of

assert IGNORE_INDEX < 0, "rows without a label are told by a negative one"


@dataclass(kw_only=True)
class LabelledConfig:
    """`label` field of the sources `train` and `test`, from one `modality` or the fused
    `modalities`.
    """

    train: str
    test: str
    label: str
    modality: str | None = None
    modalities: list[str] | None = None
    features: Literal["embedding", "pooled"] = "embedding"
    baseline: Literal["majority", "untrained", "pixels", "none"] = "majority"

    def __post_init__(self) -> None:
        if (self.modality is None) == (not self.modalities):
            raise ValueError("give either modality (one) or modalities (a list, fused)")
        if self.baseline == "pixels" and self.modality != "image":
            raise ValueError("baseline: pixels compares pictures; use it with modality: image")


class LabelledEvaluator(Evaluator):
    """Predict the labels of one source from those of another by frozen features; subclasses say
    how.
    """

    def __init__(self, config: LabelledConfig) -> None:
        self.settings = config
        self.baseline = config.baseline
        self._train, self._test = (self._reading(s) for s in (config.train, config.test))

    def _reading(self, source: str) -> Reading:
        config = self.settings
        return Reading(
            source,
            tuple(config.modalities or [str(config.modality)]),
            fused=bool(config.modalities),
            pooled=config.features == "pooled",
            label=config.label,
        )

    @property
    def readings(self) -> tuple[Reading, ...]:
        return tuple(dict.fromkeys((self._train, self._test)))

    def predict(self, train: Rows, test: Rows) -> Ints:
        """The label of each row of `test`."""
        raise NotImplementedError

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        train, test = self.rows(encoded, self._train), self.rows(encoded, self._test)
        predicted = self.predict(train, test)
        estimates = bootstrap.estimate(
            {
                "accuracy": classification.accuracy(test.labels, predicted),
                "macro_f1": classification.macro_f1(test.labels, predicted),
            },
            test.groups,
            seed=self.seed,
        )
        classes = len(np.unique(np.concatenate([train.labels, test.labels])))
        compact = np.unique(test.labels, return_inverse=True)[1]
        by_chance = classification.by_chance(compact, classes)
        majority = classification.majority(train.labels)
        by_majority = classification.by_constant(test.labels, majority)
        for metric, found in estimates.items():
            score = Score(metric, found.value, len(test), found.ci95, by_chance[metric])
            if self.baseline == "majority":
                score = score._replace(baseline=by_majority[metric], baseline_name="majority class")
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        train, test = self.rows(encoded, self._train), self.rows(encoded, self._test)
        return {
            "train_rows": len(train),
            "train_without_label": len(self._all(encoded, self._train)) - len(train),
            "test_rows": len(test),
            "test_without_label": len(self._all(encoded, self._test)) - len(test),
        }

    def rows(self, encoded: Mapping[Reading, Any], reading: Reading) -> Rows:
        """The rows of `reading` that have a label."""
        rows = self._all(encoded, reading)
        rows = rows.take(rows.labels >= 0)
        if not len(rows):
            raise ValueError(
                f"source {reading.source!r} has no sample with a label {reading.label!r}"
            )
        return rows

    def _all(self, encoded: Mapping[Reading, Any], reading: Reading) -> Rows:
        key = "fused" if reading.fused else reading.modalities[0]
        return rows_of(encoded[reading], reading, key, self.settings.features)
