"""Recommendation scores against scikit-learn, chance against all orders, baselines by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from mmfm.config import ConfigError
from mmfm.next_item import Ranked
from mmfm_eval.metrics import recommenders, top_k
from mmfm_eval.readings import Reading, passes
from mmfm_prep.sources import movielens
from tests.eval.fakes import task

HISTORIES = [np.array(h) for h in ([0, 1, 2, 3], [0, 1, 2], [4, 1, 2, 0], [3, 1, 0])]


def test_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 30))
    target = rng.integers(0, 30, size=60)
    rank = 1 + (scores > scores[np.arange(60), target][:, None]).sum(1)
    truth = np.eye(30)[target]
    for k in (1, 5, 10):
        found = top_k.values(rank.astype(float), k)
        wanted = top_k_accuracy_score(target, scores, k=k, labels=np.arange(30))
        assert found[f"Recall@{k}"] == pytest.approx(wanted, abs=1e-12)
        assert found[f"NDCG@{k}"] == pytest.approx(ndcg_score(truth, scores, k=k), abs=1e-12)
    # Cut off nowhere, the reciprocal rank is the average precision of the one relevant item.
    wanted = label_ranking_average_precision_score(truth, scores)
    assert top_k.values(rank.astype(float), 30)["MRR@30"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_chance_is_the_mean_over_all_places(k: int) -> None:
    ns = [4, 12]
    found = top_k.chance(np.array(ns), k)
    for name, value in found.items():
        each = [
            np.mean([top_k.values(np.array([r]), k)[name] for r in range(1, n + 1)]) for n in ns
        ]
        assert value == pytest.approx(np.mean(each), abs=1e-12)


def test_popularity_counts() -> None:
    scores = recommenders.popularity(HISTORIES, 6)([np.array([1]), np.array([5])])
    assert scores.tolist() == [[4, 4, 3, 2, 1, 0]] * 2


def test_markov_counts_what_follows_and_breaks_ties_by_popularity() -> None:
    scores = recommenders.markov(HISTORIES, 6)([np.array([5, 1]), np.array([1, 5])])
    assert np.floor(scores[0]).tolist() == [1, 0, 3, 0, 0, 0]
    assert scores[1].argsort(kind="stable")[::-1].tolist() == [1, 0, 2, 3, 4, 5]  # popularity alone


def test_item_knn_adds_cosines_of_the_most_similar() -> None:
    choosers = np.array([[i in h for h in HISTORIES] for i in range(6)], dtype=float)
    norm = np.maximum(np.linalg.norm(choosers, axis=1), 1)
    cosine = choosers @ choosers.T / norm[:, None] / norm[None]
    np.fill_diagonal(cosine, 0)
    history = np.array([0, 3, 3])
    found = recommenders.item_knn(HISTORIES, 6)([history])
    assert found[0] == pytest.approx(cosine[[0, 3]].sum(0), abs=1e-12)
    one = recommenders.item_knn(HISTORIES, 6, k=1)([history])[0]
    for item in range(6):  # each item keeps only the one that is most similar to it (or its ties)
        kept = [i for i in (0, 3) if cosine[i, item] == cosine[:, item].max()]
        assert one[item] == pytest.approx(cosine[kept, item].sum(), abs=1e-12)


@pytest.mark.parametrize("name", ["item_knn", "markov"])
def test_a_table_of_too_many_items_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leave it out of baselines"):
        recommenders.RECOMMENDERS[name]([], 20_001)


def ranked(**changes: Any) -> Ranked:
    found = {
        "row_ids": ["a", "b", "c", "d"],
        "groups": np.arange(4),
        "rank": np.array([1, 2.5, 1, 1]),
        "candidates": np.array([3, 4, 3, 4]),
        "histories": HISTORIES,
        "items": 6,
        "held_out": 2,
        "too_short": 1,
    }
    return Ranked(**{**found, **changes})


def evaluator(**settings: Any) -> Any:
    return task(type="recommendation", source="a", k=2, **settings)


def test_scores_stand_beside_the_best_baseline() -> None:
    judged = evaluator(baselines=["popularity", "markov"])
    encoded = {judged.readings[0]: ranked()}
    scores = {s.name: s for s in judged.score(encoded)}
    assert scores["Recall@2"].value == 0.75
    assert scores["MRR@2"].value == 0.75
    assert scores["Recall@2"].chance == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert scores["Recall@2"].n == 4
    details = judged.details(encoded)
    assert set(details["baselines"]) == {"popularity", "markov"}
    best = max(found["Recall@2"] for found in details["baselines"].values())
    assert scores["Recall@2"].baseline == best
    assert details["protocol"]["held_out_of_training"] == 2
    assert (details["users"], details["too_short"], details["items"]) == (4, 1, 6)
    assert details["interactions_before_target"] == 10
    json.dumps(details, allow_nan=False)


@pytest.mark.parametrize(("target", "rank"), [("test", 1.5), ("val", 2.0)])
def test_baselines_learn_from_the_training_part_only(target: str, rank: float) -> None:
    """They have seen 0 1 2, so all that was not in it is equally likely to follow."""
    history = np.array([0, 1, 2, 3, 4] if target == "test" else [0, 1, 2, 3])
    judged = evaluator(target=target)
    for name in ("popularity", "item_knn", "markov"):
        reached = judged._baseline(name, ranked(histories=[history] * 3, items=6, held_out=2))
        assert reached.tolist() == [rank] * 3
    seen = judged._baseline("markov", ranked(histories=[history] * 3, items=6, held_out=1))
    assert seen.tolist() == [1.5 if target == "test" else 1.0] * 3


def test_without_baselines_there_is_none() -> None:
    judged = evaluator(baselines=[])
    assert {s.baseline for s in judged.score({judged.readings[0]: ranked()})} == {None}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="recommendation head"):
        evaluator().check_model(SimpleNamespace(head=None))
    evaluator(target="test").check_model(SimpleNamespace(head=SimpleNamespace(held_out=1)))
    with pytest.raises(ConfigError, match="was trained on"):
        evaluator(target="val").check_model(SimpleNamespace(head=SimpleNamespace(held_out=1)))
    judged = evaluator()
    empty = ranked(row_ids=[], rank=np.zeros(0), histories=[], groups=np.zeros(0, int))
    with pytest.raises(ValueError, match="no history is long enough"):
        list(judged.score({judged.readings[0]: empty}))
    with pytest.raises(ConfigError, match="at least one place"):
        task(type="recommendation", source="a", k=0)


def test_ranks_need_a_pass_of_their_own() -> None:
    test, val = Reading("a", place=1), Reading("a", place=2)
    plain = Reading("a", ("text",))
    assert passes([test, plain, val, test]) == [test, val, plain]
    assert str(test) == "a, head"


@pytest.mark.slow
def test_baselines_on_movielens(tmp_path: Path) -> None:
    """Against figures that were measured with other code, of what is known before the target."""
    films = list(movielens.Config(cache=tmp_path).samples())
    rows = {film.id: row for row, film in enumerate(s for s in films if s.split == "items")}
    histories = [np.array([rows[i] for i in s.history]) for s in films if s.history]
    judged = evaluator(target="test")
    found = ranked(histories=histories, items=len(rows), held_out=1)
    for name, recall in (("popularity", 0.0859), ("markov", 0.1453)):
        reached = top_k.values(judged._baseline(name, found), 10)
        assert round(reached["Recall@10"], 4) == recall, name
