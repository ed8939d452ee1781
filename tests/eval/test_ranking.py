"""Ranks against enumeration and a reference recall; chance against enumeration, scipy and
simulation.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from mmfm_eval.metrics import ranking
from mmfm_eval.metrics.ranking import chance_level, first_rank_distribution, first_relevant_ranks

rng = np.random.default_rng(0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference_recall(scores: torch.Tensor, relevant: torch.Tensor, k: int) -> float:
    """The share of rows with a relevant item among the k best, by torch.topk (as clip_benchmark
    counts it).
    """
    best = scores.topk(k, dim=1).indices
    return float(relevant.gather(1, best).any(1).float().mean())


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_agrees_with_topk_where_nothing_is_tied(k: int) -> None:
    groups_q, groups_g = rng.integers(0, 30, size=80), rng.integers(0, 30, size=120)
    groups_g[:30] = np.arange(30)
    q, g = unit(rng.normal(size=(80, 8))), unit(rng.normal(size=(120, 8)))
    found = first_relevant_ranks(q, g, groups_q, groups_g)
    relevant = torch.tensor(groups_q[:, None] == groups_g)
    expected = reference_recall(torch.tensor(q @ g.T), relevant, k)
    assert (found.rank <= k).mean() == pytest.approx(expected, abs=1e-7)
    np.testing.assert_array_equal(found.relevant, relevant.sum(1).numpy())
    assert (found.candidates == 120).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_count_as_the_expected_rank_over_all_orders(items: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in items]) / 2
    relevant = np.array([r for _, r in items])
    gallery = np.stack([scores, np.zeros(len(scores))], axis=1)
    found = first_relevant_ranks(
        np.array([[1.0, 0.0]]), gallery, np.array([1]), relevant.astype(int)
    )
    if not relevant.any():
        assert np.isnan(found.rank[0])
        return
    ranks = []
    for order in itertools.permutations(range(len(items))):
        ranked = sorted(order, key=lambda i: -scores[i])  # stable: the order breaks ties
        ranks.append(1 + next(place for place, i in enumerate(ranked) if relevant[i]))
    assert found.rank[0] == pytest.approx(np.mean(ranks), abs=1e-9)


def test_a_collapsed_model_scores_like_chance() -> None:
    same = np.ones((50, 4)) / 2 + 1e-8 * rng.normal(size=(50, 4))
    found = first_relevant_ranks(same, same, np.arange(50), np.arange(50))
    np.testing.assert_allclose(found.rank, 25.5)


def test_the_query_itself_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    x, groups = unit(rng.normal(size=(30, 4))), np.arange(30) // 2
    found = first_relevant_ranks(x, x, groups, groups, excluded=np.arange(30))
    scores = x @ x.T
    for i in range(30):
        partner = i ^ 1
        others = [scores[i, j] for j in range(30) if j not in (i, partner)]
        assert found.rank[i] == 1 + sum(s > scores[i, partner] for s in others)
    assert (found.relevant == 1).all()
    assert (found.candidates == 29).all()
    monkeypatch.setattr(ranking, "_CELLS", 30 * 4)  # blocks of four queries
    blocked = first_relevant_ranks(x, x, groups, groups, excluded=np.arange(30))
    np.testing.assert_array_equal(blocked.rank, found.rank)


def test_nan_is_refused() -> None:
    x = np.full((2, 2), np.nan)
    with pytest.raises(ValueError, match="NaN"):
        first_relevant_ranks(x, np.eye(2), np.arange(2), np.arange(2))


@pytest.mark.parametrize(("r", "n"), [(1, 1), (1, 5), (2, 5), (3, 6), (5, 5)])
def test_chance_is_that_of_all_orders(r: int, n: int) -> None:
    ranks = np.array(
        [1 + min(order[:r]) for order in itertools.permutations(range(n))]  # places of the relevant
    )
    counts = np.bincount(ranks, minlength=n + 1)[1:] / len(ranks)
    np.testing.assert_allclose(first_rank_distribution(r, n), counts, atol=1e-12)
    found = chance_level(np.array([r]), np.array([n]), (1, 2, 5, 10))
    for k, value in found.recall.items():
        assert value == pytest.approx((ranks <= k).mean(), abs=1e-12)
        assert value == pytest.approx(1 - hypergeom(n, r, min(k, n)).pmf(0), abs=1e-12)
    assert found.reciprocal_rank == pytest.approx((1 / ranks).mean(), abs=1e-12)
    assert found.median_rank == np.median(ranks)


def test_chance_of_mixed_queries_is_met_by_simulation() -> None:
    groups_g = np.repeat(np.arange(12), np.arange(1, 13))
    groups_q = np.repeat(np.arange(12), 400)
    q, g = unit(rng.normal(size=(len(groups_q), 24))), unit(rng.normal(size=(len(groups_g), 24)))
    found = first_relevant_ranks(q, g, groups_q, groups_g)
    chance = chance_level(found.relevant, found.candidates, (1, 5, 10))
    # Gaussian queries and gallery of independent directions are a random order for each query, but
    # for the few
    # gallery vectors that stay the same; 4,800 queries leave a standard error under 0.01.
    for k, value in chance.recall.items():
        assert (found.rank <= k).mean() == pytest.approx(value, abs=0.04)
    assert (1 / found.rank).mean() == pytest.approx(chance.reciprocal_rank, abs=0.03)
    assert np.median(found.rank) == pytest.approx(chance.median_rank, abs=1.5)
