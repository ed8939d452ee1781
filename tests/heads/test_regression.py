"""The regression head: numbers in their own units, levels in order, missing targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mmfm
from mmfm.config import Component, ConfigError, component
from mmfm.types import IGNORE_INDEX, Batch
from tests import tiny

LEVELS = ["calm", "breezy", "stormy"]


def build(tokenizer: str, names: list[str] | None = None, **head: Any) -> Any:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "regression", "label": "price", **head}
    torch.manual_seed(0)
    task = mmfm.build(settings, label_names=names or []).eval()
    torch.nn.init.normal_(task.head.classifier.weight)
    return task


def priced() -> Batch:
    batch = tiny.make_batch(0)
    batch["labels"] = 10 + torch.arange(tiny.GLOBAL_BATCH, dtype=torch.float32)
    batch["labels"][[1, 2, 9]] = math.nan
    return batch


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_numbers_are_learnt_in_deviations_from_their_mean(tokenizer: str, loss: str) -> None:
    task = build(tokenizer, loss=loss, delta=0.5, mean=20.0, deviation=4.0)
    batch = task.prepare(priced())
    outputs = task(batch, predict=True).predictions
    target = (batch["labels"][outputs["rows"]] - 20) / 4
    known = target.isfinite()
    logits = outputs["logits"][known, 0]
    if loss == "mse":
        want = F.mse_loss(logits, target[known], reduction="sum")
    else:
        want = F.huber_loss(logits, target[known], reduction="sum", delta=0.5)
    total, count = task(batch).losses["head/regression"]
    torch.testing.assert_close(total, want)
    assert count.item() == task.counts(batch)["head/regression"].item() == known.sum().item()
    predicted = task.head.predict(outputs)
    torch.testing.assert_close(predicted["value"], outputs["logits"][:, 0] * 4 + 20)
    assert task.head.answers(predicted, batch)[0] == {"value": predicted["value"][0].item()}


def levelled(names: list[str]) -> Batch:
    batch = tiny.make_batch(0)
    batch["labels"] = torch.arange(tiny.GLOBAL_BATCH) % len(names)
    batch["labels"][3] = IGNORE_INDEX
    return batch


def test_levels_are_numbers_in_the_given_order(tokenizer: str) -> None:
    names = sorted(LEVELS)
    task = build(tokenizer, names, label="wind", order=LEVELS, mean=1.0, deviation=1.0)
    batch = task.prepare(levelled(names))
    rows = torch.tensor([0, 1, 2, 3])
    target, known = task.head.target(batch, rows)
    assert target[:3].tolist() == [1, 0, 2]  # breezy, calm, stormy
    assert known.tolist() == [True, True, True, False]
    predicted = {"value": torch.tensor([-3.0, 0.6, 9.0]), "rows": rows[:3]}
    told = [answer["label"] for answer in task.head.answers(predicted, batch)]
    assert told == ["calm", "breezy", "stormy"]


def test_the_ordinal_loss_asks_which_steps_are_passed(tokenizer: str) -> None:
    names = sorted(LEVELS)
    task = build(tokenizer, names, label="wind", order=LEVELS, loss="ordinal")
    assert task.head.classifier.out_features == 2
    batch = task.prepare(levelled(names))
    outputs = task(batch, predict=True).predictions
    target, known = task.head.target(batch, outputs["rows"])
    passed = torch.stack([target > 0, target > 1], dim=1).float()[known]
    logits = outputs["logits"][known]
    want = F.binary_cross_entropy_with_logits(logits, passed, reduction="sum")
    total, count = task(batch).losses["head/regression"]
    torch.testing.assert_close(total, want)
    assert count.item() == known.sum().item()
    value = task.head.predict(outputs)["value"]
    assert torch.equal(value, (outputs["logits"] > 0).sum(1).float())


def _config(**settings: Any) -> Any:
    return component({"type": "regression", "label": "x", **settings}, Component("mmfm.heads"))


def test_mean_and_deviation_come_from_the_training_data() -> None:
    config = _config()
    config.settle([(1.0,), (), (3.0,), (math.nan,), (5.0,)])
    assert (config.mean, config.deviation) == (3.0, pytest.approx(np.std([1, 3, 5])))
    given = _config(mean=0.0)
    given.settle([(1.0,), (3.0,)])
    assert (given.mean, given.deviation) == (0.0, 1.0)
    ordered = _config(order=LEVELS)
    ordered.settle([("stormy",), ("calm",)])
    assert (ordered.mean, ordered.deviation) == (1.0, 1.0)


def test_what_can_not_be_learnt_is_refused(tokenizer: str) -> None:
    with pytest.raises(ValueError, match="no training sample has such a number"):
        _config().settle([(), ()])
    with pytest.raises(ValueError, match="all numbers are 2: nothing to learn"):
        _config().settle([(2.0,), (2.0,)])
    with pytest.raises(ConfigError, match="ordinal needs the levels"):
        build(tokenizer, loss="ordinal")
    with pytest.raises(ConfigError, match="at least two levels, each once"):
        build(tokenizer, order=["calm", "calm"])
    with pytest.raises(ConfigError, match="level 'breeze'; did you mean 'breezy'"):
        build(tokenizer, ["breeze", "calm"], order=LEVELS)
    with pytest.raises(ConfigError, match=r"deviation = 0.0 must be above 0"):
        build(tokenizer, deviation=0.0)
    with pytest.raises(ConfigError, match=r"delta = 0.0 must be above 0"):
        build(tokenizer, delta=0.0)


def test_the_metric_is_the_absolute_error(tokenizer: str) -> None:
    metric = build(tokenizer).head.metrics["absolute_error"]
    assert metric({"value": np.array([1.0, 4.0])}, np.array([2.0, 4.0])).tolist() == [1.0, 0.0]
