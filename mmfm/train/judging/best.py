"""The score by which the checkpoints of a run are compared, and how long none may be better.

    train:
      eval_every: 100
      keep_best: {task: shape, metric: accuracy}
      patience: 3

`patience`: the run is done when so many evaluations in a row brought no better score than the best
before them. That is counted from metrics.jsonl, so a run that was stopped and goes on counts alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmfm import distributed
from mmfm.config import ConfigError, nearest
from mmfm.train.log import read_metrics


@dataclass(kw_only=True)
class KeepBest:
    """The score by which the best checkpoint is kept: of which of ``eval.tasks``, which metric."""

    task: str
    metric: str
    mode: Literal["max", "min"] = "max"

    def value_in(self, scores: Mapping[str, Iterable[Any]]) -> float:
        """The score among those of an evaluation, by task; ConfigError where the metric isn't."""
        values = {score.name: float(score.value) for score in scores[self.task]}
        if self.metric not in values:
            raise ConfigError(
                f"train.keep_best.metric = {self.metric!r} is no metric of eval.tasks."
                f"{self.task}{nearest(self.metric, values)}"
            )
        return values[self.metric]

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a score is better than the best so far; not a number never is."""
        if math.isnan(value):
            return False
        sign = 1 if self.mode == "max" else -1
        return than is None or sign * value > sign * than

    def best_step(self, values: Mapping[int, float]) -> int | None:
        """The step with the best of `values`, the first of several; None where all are NaN."""
        best: int | None = None
        for step in sorted(values):
            if self.is_better(values[step], None if best is None else values[best]):
                best = step
        return best

    def values_by_step(self, rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        """Step ▶ the score, of the rows of metrics.jsonl after step 0; of a step that was run again
        the last one.
        """
        wanted = {"split": "eval", "task": self.task, "metric": self.metric}.items()
        found = {row["step"]: row["value"] for row in rows if wanted <= row.items()}
        return {step: found[step] for step in sorted(found) if step > 0}


class Patience:
    """`over` says that enough evaluations brought no better score; collective when it is made.

    `limit`: so many, None for a run that goes to its end. `step`: what metrics.jsonl in `folder`
    has of later steps doesn't count.
    """

    def __init__(self, limit: int | None, by: KeepBest | None, folder: Path, step: int) -> None:
        self.limit, self.by = limit, by
        self.best: float | None = None
        self.without = 0
        if limit is None or by is None:
            return
        before: list[float] = []
        if distributed.is_main():
            told = by.values_by_step(
                row for row in read_metrics(folder / "metrics.jsonl") if "metric" in row
            )
            before = [value for at, value in told.items() if at <= step]
        for value in distributed.broadcast_object(before):
            self._count(value)

    def add(self, scores: Mapping[str, Iterable[Any]]) -> None:
        """Count an evaluation; `scores` are the same on every rank."""
        if self.by is not None and self.limit is not None:
            self._count(self.by.value_in(scores))

    @property
    def over(self) -> bool:
        return self.limit is not None and self.without >= self.limit

    def _count(self, value: float) -> None:
        assert self.by is not None
        self.without += 1
        if self.by.is_better(value, self.best):
            self.best, self.without = value, 0
