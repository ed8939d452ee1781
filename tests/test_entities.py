"""Entities in tags, against seqeval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from mmfm.entities import entities, repaired

TAGS = st.sampled_from(["O", "B-person", "I-person", "B-place", "I-place"])


@given(st.lists(TAGS, max_size=12))
def test_as_seqeval_reads_them(tags: list[str]) -> None:
    theirs = [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
    assert entities(tags) == theirs


def test_a_type_may_hold_a_dash() -> None:
    assert entities(["B-creative-work", "I-creative-work"]) == [("creative-work", 0, 2)]


@pytest.mark.parametrize(
    ("tags", "count"),
    [
        (["O", "B-a", "I-a", "I-a"], 0),
        (["I-a", "I-a", "O", "I-a"], 2),
        (["B-a", "I-b", "I-b"], 1),
    ],
)
def test_what_goes_on_without_having_begun(tags: list[str], count: int) -> None:
    assert repaired(tags) == count
