"""The numbers that a checkpoint's regression head predicts on one source.

    type: regression
    source: held_out

Mean absolute error, root of the mean square, share of the variance, rank correlation. The baseline
is the constant that is best on the source itself: its median, for squares its mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfm.config import ConfigError
from mmfm_eval.metrics import bootstrap, regression
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score
from mmfm_eval.tasks.head import HeadReading

POINTS = 400
"""Of so many samples, spread over the true numbers, the details hold (right, said)."""


@dataclass(kw_only=True)
class Config:
    """The `source` that is judged."""

    source: str

    def build(self) -> Regression:
        return Regression(self)


class Regression(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self._source = config.source
        self._reading = HeadReading(config.source)

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        if "absolute_error" not in getattr(predictor.head, "metrics", {}):
            raise ConfigError(
                "a regression task needs a checkpoint with a regression head: fine-tune one first "
                "(mmfm finetune)"
            )

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        judged = encoded[self._reading]
        y = np.asarray(judged.target, np.float64)
        p = np.asarray(judged.predicted["value"], np.float64)
        if not np.isfinite(p).all():
            raise ValueError("the predictions hold NaN or infinite numbers: the head has diverged")
        statistics = {
            "absolute_error": regression.absolute_error(y, p),
            "root_mean_square_error": regression.root_mean_square_error(y, p),
            "r2": regression.r2(y, p),
            "rank_correlation": regression.rank_correlation(y, p),
        }
        median, ones = np.full_like(y, np.median(y)), np.ones((1, len(y)))
        constant = {
            "absolute_error": float(regression.absolute_error(y, median)(ones)[0]),
            "root_mean_square_error": float(y.std()),
            "r2": 0.0,
            "rank_correlation": 0.0,
        }
        for name, found in bootstrap.estimate(statistics, judged.groups, seed=self.seed).items():
            if not np.isfinite(found.value):  # r2 where all numbers are the same
                continue
            yield Score(
                name,
                found.value,
                len(y),
                found.ci95,
                baseline=constant[name],
                baseline_name="best constant",
            )

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        judged = encoded[self._reading]
        order = np.argsort(judged.target, kind="stable")
        spread = np.unique(np.linspace(0, len(order) - 1, POINTS).round().astype(int))
        pairs = np.stack([judged.target, judged.predicted["value"]], axis=1)[order[spread]]
        return {"rows": len(order), "points": pairs.astype(float).tolist()}

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """Those that are farthest off."""
        judged = encoded[self._reading]
        y, p = judged.target, judged.predicted["value"]
        off = np.abs(np.asarray(y, np.float64) - p)
        return [
            Mistake(
                source=self._source,
                id=judged.row_ids[i],
                right=f"{y[i]:.4g}",
                said=f"{p[i]:.4g}",
                wrong=float(off[i]),
            )
            for i in worst(off, most)
        ]
