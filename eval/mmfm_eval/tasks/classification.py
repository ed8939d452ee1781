"""The predictions of a checkpoint with a classification head on one source.

    type: classification
    source: unseen_art

Accuracy, macro F1 and the expected calibration error; precision, recall and F1 of each class go to
the details.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm.types import LabelKind
from mmfm_eval.metrics import bootstrap, classification
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import HeadOutputs, Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score

_TASKS: dict[LabelKind, str] = {
    "set": "multi_label",
    "number": "regression",
    "tags": "token_classification",
}


@dataclass(kw_only=True)
class Config:
    """Settings of a classification task: the `source`, and the number of `bins` of the calibration
    error.
    """

    source: str
    bins: int = 15
    baseline: Literal["majority", "untrained", "none"] = "majority"

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins = {self.bins}: at least one is needed")

    def build(self) -> Classification:
        return Classification(self)


class Classification(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.baseline = config.baseline
        self._reading = Reading(config.source, logits=True)

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        label = getattr(predictor, "label", None)
        if label is not None and label.kind != "class":
            raise ConfigError(
                f"the checkpoint's head learnt {label.field!r}, which is not one class a sample: "
                f"use the task {_TASKS[label.kind]}"
            )
        if not getattr(predictor.head, "label_names", None):
            raise ConfigError(
                "a classification task needs a checkpoint with a classification head: fine-tune "
                "one first (mmfm finetune), or use the tasks knn and linear_probe"
            )

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        rows = self._labelled(encoded)
        probability = _probability(rows.logits)
        predicted, confidence = probability.argmax(1), probability.max(1)
        statistics = {
            "accuracy": classification.accuracy(rows.labels, predicted),
            "macro_f1": classification.macro_f1(rows.labels, predicted),
            "ece": classification.calibration_error(
                rows.labels, predicted, confidence, self.config.bins
            ),
        }
        by_chance = classification.by_chance(rows.labels, len(rows.names))
        majority = classification.majority(rows.labels)
        by_majority = classification.by_constant(rows.labels, majority)
        for metric, found in bootstrap.estimate(statistics, rows.groups, seed=self.seed).items():
            score = Score(metric, found.value, len(rows.labels), found.ci95, by_chance.get(metric))
            if self.baseline == "majority" and metric in by_majority:
                score = score._replace(
                    baseline=by_majority[metric], baseline_name="majority class of the source"
                )
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        rows, everything = self._labelled(encoded), encoded[self._reading]
        predicted = rows.logits.argmax(1)
        table = classification.per_class(rows.labels, predicted, rows.names)
        right = {"class": "accuracy", "n": len(rows.labels), "precision": None, "recall": None}
        return {
            "rows": len(rows.labels),
            "without_label": len(everything.labels) - len(rows.labels),
            "per_class": table,
            "averages": [
                {**right, "f1": float((predicted == rows.labels).mean())},
                *classification.averages(table),
            ],
            **classification.confusion(rows.labels, predicted, rows.names),
        }

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """Those of which the head was surest."""
        rows = self._labelled(encoded)
        probability = _probability(rows.logits)
        predicted = probability.argmax(1)
        sure = probability.max(1) * (predicted != rows.labels)
        found = []
        for i in worst(sure, most):
            right = int(rows.labels[i])
            found.append(
                Mistake(
                    source=self.config.source,
                    id=rows.ids[i],
                    right=f"{rows.names[right]} ({100 * probability[i, right]:.0f} %)",
                    said=f"{rows.names[int(predicted[i])]} ({100 * sure[i]:.0f} %)",
                    wrong=float(sure[i]),
                )
            )
        return found

    def _labelled(self, encoded: Mapping[Reading, Any]) -> HeadOutputs:
        rows: HeadOutputs = encoded[self._reading]
        if not (rows.labels >= 0).any():
            raise ValueError(f"source {self.config.source!r} has no sample with the head's label")
        if not np.isfinite(rows.logits).all():
            raise ValueError("the logits hold NaN or infinite numbers: the checkpoint has diverged")
        return rows.take(rows.labels >= 0)


def _probability(logits: NDArray[Any]) -> NDArray[np.float64]:
    """The softmax of each row of `logits` [n,C]."""
    exponential = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponential / exponential.sum(1, keepdims=True), dtype=np.float64)
