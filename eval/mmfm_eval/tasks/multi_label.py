"""The sets of labels that a checkpoint's head predicts on one source.

    type: multi_label
    source: held_out

Micro and macro F1 of the labels that are likelier than not, mean average precision, and the share
of samples whose labels are all right. By chance: each label drawn as often as it is there. The
baseline gives every sample the labels that most samples have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfm.config import ConfigError
from mmfm_eval.metrics import bootstrap, classification, multi_label
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score
from mmfm_eval.tasks.head import HeadReading


@dataclass(kw_only=True)
class Config:
    """The `source` that is judged."""

    source: str

    def build(self) -> MultiLabel:
        return MultiLabel(self)


class MultiLabel(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self._source = config.source
        self._reading = HeadReading(config.source)
        self._names: list[str] = []

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        label = getattr(predictor, "label", None)
        if label is None or label.kind != "set":
            raise ConfigError(
                "a multi_label task needs a checkpoint with a classification head of "
                "multi_label: true; those of one label a sample are for the task classification"
            )
        self._names = list(label.names)

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        judged = encoded[self._reading]
        truth, probability = judged.target.astype(np.float64), judged.predicted["probability"]
        if not np.isfinite(probability).all():
            raise ValueError("the logits hold NaN or infinite numbers: the checkpoint has diverged")
        share = truth.mean(0)
        there = share > 0
        chance = {
            "micro_f1": float(np.square(share).sum() / max(share.sum(), 1e-12)),
            "macro_f1": float(share.mean()),
            "mean_average_precision": float(share[there].mean()) if there.any() else None,
        }
        ones = np.ones((1, len(truth)))
        constant = _statistics(truth, np.broadcast_to(share, truth.shape))
        statistics = _statistics(truth, probability)
        for name, found in bootstrap.estimate(statistics, judged.groups, seed=self.seed).items():
            if np.isfinite(found.value):  # no label at all: no average precision
                score = Score(name, found.value, len(truth), found.ci95, chance.get(name))
                reached = float(constant[name](ones)[0])
                yield score._replace(baseline=reached, baseline_name="the most frequent labels")

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        judged = encoded[self._reading]
        truth, told = judged.target, judged.predicted["probability"] >= 0.5
        hits, support, guesses = (x.sum(0).tolist() for x in (truth * told, truth, told))
        table = [
            classification.row_of(name, hit, n, guess)
            for name, hit, n, guess in zip(self._names, hits, support, guesses, strict=True)
            if n + guess
        ]
        micro = classification.row_of("micro avg", sum(hits), sum(support), sum(guesses))
        return {"per_class": table, "averages": [micro, *classification.averages(table)]}

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """Those with most labels that are wrong or missing; of as many, the surest."""
        judged = encoded[self._reading]
        truth, probability = judged.target.astype(bool), judged.predicted["probability"]
        told = probability >= 0.5
        off = np.where(told != truth, np.abs(probability - truth), 0.0)
        found = []
        for i in worst((told != truth).sum(1) + off.mean(1), most):
            right, said = (
                ", ".join(self._names[k] for k in np.flatnonzero(x[i])) or "none"
                for x in (truth, told)
            )
            wrong = float((told != truth)[i].sum())
            found.append(
                Mistake(
                    source=self._source, id=judged.row_ids[i], right=right, said=said, wrong=wrong
                )
            )
        return found


def _statistics(truth: Any, probability: Any) -> dict[str, bootstrap.Statistic]:
    told = (probability >= 0.5).astype(np.float64)
    return {
        "micro_f1": multi_label.micro_f1(truth, told),
        "macro_f1": multi_label.macro_f1(truth, told),
        "mean_average_precision": multi_label.mean_average_precision(truth, probability),
        "all_right": bootstrap.Share((told == truth).all(1)),
    }
