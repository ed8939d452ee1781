"""Ranks of held-out items: against a brute-force count, with ties, repeats and short histories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfm.next_item import mid_ranks, next_items, rank_held_out

N = 7


def batch_of(*histories: list[int], first: int = 0) -> dict:
    length = max(map(len, histories))
    rows = torch.zeros(len(histories), length, dtype=torch.int64)
    for row, h in enumerate(histories):
        rows[row, : len(h)] = torch.tensor(h)
    lengths = torch.tensor([len(h) for h in histories])
    return {
        "history": rows,
        "history_mask": torch.arange(length)[None] < lengths[:, None],
        "rows": {"history": torch.arange(len(histories))},
        "sample_id": [f"u{first + i}" for i in range(len(histories))],
        "group": torch.arange(len(histories)) + 100,
    }


def brute_force(scores: list[float], target: int, before: list[int]) -> float:
    """The mean place of the target over all orders of equal scores."""
    others = [s for i, s in enumerate(scores) if i != target and i not in before]
    above, tied = sum(s > scores[target] for s in others), others.count(scores[target])
    return float(np.mean([1 + above + k for k in range(tied + 1)]))


def test_ranks_equal_a_count_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        history = rng.integers(0, N, size=5).tolist()
        scores = rng.integers(0, 4, size=N).astype(np.float32)
        batch = batch_of(history)
        before = torch.arange(5)[None] < 4
        rank, candidates = mid_ranks(
            torch.from_numpy(scores)[None], torch.tensor([history[4]]), batch["history"], before
        )
        assert rank.item() == brute_force(scores.tolist(), history[4], history[:4])
        assert candidates.item() == N - len(set(history[:4]) - {history[4]})


@pytest.mark.parametrize(("place", "asked"), [(1, [4, 2, 3]), (2, [3, 1, 5])])
def test_held_out_items_are_ranked_after_what_comes_before(place: int, asked: list[int]) -> None:
    histories = [[1, 2, 3, 4], [0, 1, 2], [6, 5, 3], [4]]
    seen = []

    def scores(batch: dict) -> torch.Tensor:
        for h, mask in zip(batch["history"], batch["history_mask"], strict=True):
            seen.append(h[mask].tolist())
        return torch.zeros(len(batch["history"]), N)

    data = [batch_of(*histories[:2]), batch_of(*histories[2:], first=2)]
    found = rank_held_out(scores, data, place, held_out=2)
    assert found.row_ids == ["u0", "u1", "u2"]
    assert [h[-1] for h in found.histories] == asked
    assert seen == [h[: max(0, len(h) - place)] for h in histories]
    assert [h.tolist() for h in found.histories] == [h[: len(h) + 1 - place] for h in histories[:3]]
    assert found.too_short == 1
    assert found.items == N
    assert found.candidates.tolist() == [N - len(h) + 1 for h in found.histories]
    # All scores are equal: the middle of what is left.
    assert found.rank.tolist() == [(c + 1) / 2 for c in found.candidates]


def test_a_sample_that_comes_again_counts_once() -> None:
    batch = batch_of([1, 2], [2, 3])
    found = rank_held_out(lambda b: torch.zeros(2, N), [batch, batch], 1, 2)
    assert found.row_ids == ["u0", "u1"]
    assert found.groups.tolist() == [100, 101]


def test_recommended_items_are_not_in_the_history() -> None:
    found = next_items(lambda batch: torch.arange(N)[None].float(), [6, 4, 6], 3)
    assert [row for row, _ in found] == [5, 3, 2]
    everything = next_items(lambda batch: torch.arange(N)[None].float(), [6], 100)
    assert [row for row, _ in everything] == [5, 4, 3, 2, 1, 0]
    assert sum(p for _, p in everything) == pytest.approx(1, abs=1e-6)
