"""The task `head`: the metrics that a head brings along."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmfm.config import ConfigError
from mmfm.types import Label
from mmfm_eval.report.rows import lower_is_better
from mmfm_eval.tasks.head import Config


def predictor(**metrics: Any) -> Any:
    """A head that is off by 0, 1, 2, … of ten samples in five groups."""
    judged = SimpleNamespace(
        predicted={"level": np.arange(10)}, target=np.zeros(10), groups=np.arange(10) // 2
    )
    return SimpleNamespace(
        specs={},
        head=SimpleNamespace(metrics=metrics),
        label=Label("level", ["a", "b"]),
        judged_batches=lambda source: judged if source == Label("level", ["a", "b"]) else None,
    )


class Source:
    def with_label(self, label: Label) -> Label:
        return label


def test_a_score_is_the_mean_over_the_samples() -> None:
    evaluator = Config(source="a").build()
    found = predictor(
        level_error=lambda predicted, target: abs(predicted["level"] - target),
        right=lambda predicted, target: predicted["level"] == target,
        wrong=lambda predicted, target: predicted["level"] < target,
    )
    error, right, wrong = evaluator(found, {"a": Source()})
    assert (error.name, error.value, error.n) == ("level_error", 4.5, 10)
    assert error.ci95[0] < 4.5 < error.ci95[1]
    assert (right.name, right.value) == ("right", 0.1)
    # Nothing is wrong: the bound of so many groups, not an interval without width.
    assert wrong.ci95 == (0.0, pytest.approx(1 - 0.025 ** (1 / 5)))
    assert lower_is_better("level_error")


def test_a_metric_gives_a_number_for_each_sample() -> None:
    evaluator = Config(source="a").build()
    found = predictor(mean=lambda predicted, target: 0.5)
    with pytest.raises(
        ValueError, match=r"'mean' gives an array \[\]: one number for each of the 10"
    ):
        evaluator(found, {"a": Source()})


def test_heads_without_metrics_are_refused() -> None:
    evaluator = Config(source="a").build()
    with pytest.raises(ConfigError, match="whose head has metrics of its own"):
        evaluator.check_model(predictor())
