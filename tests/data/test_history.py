"""Histories as inputs: windows to train on, what is held out, and what can't be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfm.data.transforms.base import BadSample
from mmfm.data.transforms.history import Config, HistoryTransform
from mmfm.types import IGNORE_INDEX

IDS = [f"i{n}" for n in range(20)]


def transform(max_length: int = 4, held_out: int = 2) -> HistoryTransform:
    return Config().build({"items": IDS, "max_length": max_length, "held_out": held_out})


def decode(history: list[str], train: bool, seed: int = 0, **settings: int):
    rng = np.random.default_rng(seed)
    return transform(**settings).decode({}, {"history": history}, rng, train)


def test_evaluation_gets_the_history_whole() -> None:
    found = decode(IDS[3:15], train=False)
    assert found.rows.tolist() == list(range(3, 15))
    assert found.following is None


def test_training_draws_every_window_before_what_is_held_out() -> None:
    starts = set()
    for seed in range(200):
        found = decode(IDS[:12], train=True, seed=seed)
        assert found.following is not None
        assert found.rows.tolist() == list(range(found.rows[0], found.rows[0] + 4))
        assert found.following.tolist() == [row + 1 for row in found.rows.tolist()]
        starts.add(int(found.rows[0]))
        assert found.following.max() <= 9
    assert starts == set(range(6))
    again = decode(IDS[:12], train=True, seed=7)
    assert again.rows.tolist() == decode(IDS[:12], train=True, seed=7).rows.tolist()


@pytest.mark.parametrize(("length", "places"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2), (7, 4)])
def test_short_histories_have_what_is_left(length: int, places: int) -> None:
    found = decode(IDS[:length], train=True)
    assert len(found.rows) == places
    assert found.following is not None
    assert found.following.tolist() == list(range(1, places + 1))
    assert len(decode(IDS[:length], train=True, held_out=0).rows) == min(4, length - 1)


def test_batches_are_padded_at_the_end() -> None:
    chosen = transform()
    batch = chosen.collate([decode(IDS[:n], train=True) for n in (6, 1, 4)])
    assert batch["history"].tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert batch["history_mask"].sum(1).tolist() == [3, 0, 1]
    none = IGNORE_INDEX
    assert batch["history_next"].tolist() == [[1, 2, 3], [none] * 3, [1, none, none]]
    empty = chosen.collate([decode(IDS[:1], train=True)])
    assert empty["history"].shape == (1, 1)
    assert not empty["history_mask"].any()
    whole = chosen.collate([decode(IDS[:2], train=False)])
    assert set(whole) == {"history", "history_mask"}
    assert whole["history"].dtype == torch.int64


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({}, "history missing"),
        ({"history": []}, "history missing"),
        ({"history": "i1"}, "history not a list of ids"),
        ({"history": ["i1", None]}, "history not a list of ids"),
        ({"history": ["i1", "i99"]}, "unknown item in the history"),
    ],
)
def test_what_cannot_be_used(meta: dict, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        transform().decode({}, meta, np.random.default_rng(0), False)


def test_numbers_are_ids_too_and_a_string_is_no_history() -> None:
    chosen = Config().build({"items": ["7", "8"], "max_length": 4, "held_out": 0})
    found = chosen.decode({}, {"history": [8, 7]}, np.random.default_rng(0), False)
    assert found.rows.tolist() == [1, 0]
    with pytest.raises(ValueError, match="list of ids"):
        chosen.content_of("i1")
