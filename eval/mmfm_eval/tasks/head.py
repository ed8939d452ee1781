"""The metrics that a head brings with it (`mmfm.heads.base.Head.metrics`), on one source.

    type: head
    source: held_out

Each is the mean over the samples that have what the head learns, with its bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmfm.config import ConfigError
from mmfm_eval.metrics import bootstrap
from mmfm_eval.readings import OwnPass, Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score


@dataclass(kw_only=True)
class Config:
    """The `source`, and what the scores are set beside."""

    source: str
    baseline: Literal["untrained", "none"] = "none"

    def build(self) -> HeadMetrics:
        return HeadMetrics(self)


@dataclass(frozen=True)
class HeadReading(OwnPass):
    """What the head says of every sample, and what is right for it."""

    def run(self, predictor: Any, data: Mapping[str, Any]) -> Any:
        source = data[self.source]
        if predictor.label is not None and hasattr(source, "with_label"):
            source = source.with_label(predictor.label)
        return predictor.judged_batches(source)


class HeadMetrics(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.baseline = config.baseline
        self._metrics: Mapping[str, Any] = {}
        self._reading = HeadReading(config.source)

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        self._metrics = getattr(predictor.head, "metrics", {})
        if not self._metrics:
            raise ConfigError(
                "a head task needs a checkpoint whose head has metrics of its own; the heads "
                "retrieval and recommendation are judged by the tasks of these names"
            )

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        judged = encoded[self._reading]
        values = {
            name: np.asarray(metric(judged.predicted, judged.target))
            for name, metric in self._metrics.items()
        }
        for name, each in values.items():
            if each.shape != judged.groups.shape:
                raise ValueError(
                    f"the head's metric {name!r} gives an array {list(each.shape)}: one number for "
                    f"each of the {len(judged.groups)} samples is needed"
                )
        means = {
            name: bootstrap.Share(each) if each.dtype == bool else bootstrap.mean(each)
            for name, each in values.items()
        }
        for name, found in bootstrap.estimate(means, judged.groups, seed=self.seed).items():
            yield Score(name, found.value, len(judged.groups), found.ci95)
