"""What a head learns of a sample, out of its JSON."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmfm.data.labels import collate_labels, read_label
from mmfm.data.reader import RawSample
from mmfm.types import IGNORE_INDEX, Label


def raw(**meta: Any) -> RawSample:
    return RawSample({}, meta, "a", "set/000.tar/a", ())


def test_a_class_a_set_and_a_number() -> None:
    sample = raw(labels={"kind": "cat", "seen": ["b", "a", "b"]}, numbers={"price": 3})
    assert read_label(sample, Label("kind", ["bird", "cat"])) == 1
    assert read_label(sample, Label("seen", ["a", "b", "c"], "set")) == [1, 1, 0]
    assert read_label(sample, Label("price", (), "number")) == 3.0
    assert read_label(sample, Label("tags", ["O"], "tags")) is None
    assert read_label(sample, Label("history", ["a"], "items")) is None


def test_what_is_missing() -> None:
    for sample in (raw(), raw(labels=None, numbers=[]), raw(labels={}, numbers={})):
        assert read_label(sample, Label("kind", ["cat"])) == IGNORE_INDEX
        assert read_label(sample, Label("kind", ["a", "b"], "set")) == [IGNORE_INDEX] * 2
        assert math.isnan(read_label(sample, Label("price", (), "number")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "label", "message"),
    [
        (
            {"labels": {"kind": "dog"}},
            Label("kind", ["cat"]),
            r"^set/000.tar/a.json: label kind = 'dog' is not one of the 1 classes",
        ),
        ({"labels": {"kind": ["cat"]}}, Label("kind", ["cat"]), "head.multi_label=true"),
        ({"labels": {"kind": "cat"}}, Label("kind", ["cat"], "set"), "must be a list of classes"),
        ({"labels": {"kind": ["dog"]}}, Label("kind", ["cat"], "set"), "'dog' is not one of"),
        ({"numbers": {"x": "3"}}, Label("x", (), "number"), r"numbers.x = '3' is no finite number"),
        ({"numbers": {"x": True}}, Label("x", (), "number"), "is no finite number"),
        ({"numbers": {"x": 10**400}}, Label("x", (), "number"), "is no finite number"),
        ({"numbers": {"x": 1e200}}, Label("x", (), "number"), "is no finite number"),
        ({"numbers": {"x": math.inf}}, Label("x", (), "number"), "is no finite number"),
    ],
)
def test_wrong_values_say_where(meta: dict[str, Any], label: Label, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_label(raw(**meta), label)


def test_a_batch_of_each() -> None:
    assert collate_labels([1, IGNORE_INDEX]).dtype == torch.int64
    assert collate_labels([[1, 0], [0, 1]]).tolist() == [[1, 0], [0, 1]]
    numbers = collate_labels([1.5, math.nan])
    assert numbers.dtype == torch.float32
    assert numbers.isnan().tolist() == [False, True]
