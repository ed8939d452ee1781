"""Readings that one pass can serve are read once, and labels have one numbering in all sources."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfm_eval.readings import Reading, encode_readings, label_names, passes
from tests.eval.fakes import FakePredictor, concept_source


def test_plain_readings_of_one_source_become_one_pass() -> None:
    plan = passes(
        [
            Reading("a", ("image",)),
            Reading("a", ("image", "text")),
            Reading("a", ("image",), pooled=True, label="animal"),
            Reading("b", ("image",)),
        ]
    )
    assert plan == [
        Reading("a", ("image", "text"), pooled=True, label="animal"),
        Reading("b", ("image",)),
    ]


def test_other_labels_and_other_fusions_need_their_own_pass() -> None:
    readings = [
        Reading("a", ("image",), label="animal"),
        Reading("a", ("image",), label="colour"),
        Reading("a", ("audio", "image"), fused=True),
        Reading("a", ("image", "text"), fused=True),
        Reading("a", ("audio",)),
        Reading("a", ("image",), pooled=True),
        Reading("a", logits=True),
    ]
    plan = passes(readings)
    assert len(plan) == 5  # the plain audio comes with the fused one, the pooled with a plain
    assert sum(p.pooled for p in plan) == 1
    assert all(any(p.serves(r) for p in plan) for r in readings)


def test_each_source_is_passed_once_and_every_reading_gets_its_result() -> None:
    source = concept_source()
    readings = [
        Reading("a", ("image",)),
        Reading("a", ("text",), label="animal"),
        Reading("a", ("image", "text")),
    ]
    found = encode_readings(FakePredictor(), {"a": source}, readings)
    assert len(source.passes) == 1
    assert set(found) == set(readings)
    assert found[readings[0]] is found[readings[2]]
    np.testing.assert_array_equal(found[readings[1]].labels["text"][:6], [0, 1, 2, 3, 0, 1])


def test_a_label_has_one_number_in_all_sources() -> None:
    a = concept_source()
    b = replace(a, label_names={"animal": ["fish", "ant"]})
    assert label_names({"a": a, "b": b}, "animal") == ["ant", "bird", "cat", "dog", "fish"]
    with pytest.raises(ValueError, match=r"no source has a label 'colour'.*animal"):
        label_names({"a": a}, "colour")
