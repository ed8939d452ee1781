"""`Evaluator.mistakes` of each task, and what was taken for what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix

from mmfm.types import IGNORE_INDEX
from mmfm_eval.metrics import classification
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import HeadOutputs, Reading
from mmfm_eval.tasks.base import Evaluator, Findings, Score
from mmfm_eval.tasks.caption import Config as Caption
from mmfm_eval.tasks.caption import Found
from mmfm_eval.tasks.classification import Config as Classification
from mmfm_eval.tasks.multi_label import Config as MultiLabel
from mmfm_eval.tasks.recommendation import Config as Recommendation
from mmfm_eval.tasks.regression import POINTS
from mmfm_eval.tasks.regression import Config as Regression
from mmfm_eval.tasks.retrieval import Config as Retrieval
from mmfm_eval.tasks.retrieval import Side
from mmfm_eval.tasks.token_classification import Config as Tokens
from tests.eval.fakes import FakePredictor, concept_source


def test_the_worst_come_first_and_what_is_right_is_none() -> None:
    assert worst(np.array([0.0, 2.0, 3.0, 2.0, 0.0]), 9) == [2, 1, 3]
    assert worst(np.array([1.0, 2.0]), 1) == [1]
    assert worst(np.zeros(0), 3) == []


def encoded(evaluator: Evaluator, found: Any) -> dict[Reading, Any]:
    return {evaluator.readings[0]: found}


def test_of_a_classification_those_of_which_the_head_was_surest() -> None:
    probability = np.array([[0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
    found = HeadOutputs(
        np.log(probability),
        np.array([0, 0, 0, IGNORE_INDEX, 1]),
        np.arange(5),
        ["cat", "dog"],
        list("abcde"),
    )
    evaluator = Classification(source="held_out").build()
    first, second, third = evaluator.mistakes(encoded(evaluator, found), 9)
    assert first == Mistake(
        source="held_out", id="b", right="cat (10 %)", said="dog (90 %)", wrong=pytest.approx(0.9)
    )
    assert (second.id, third.id) == ("c", "e")
    assert len(evaluator.mistakes(encoded(evaluator, found), 1)) == 1


def judged(predicted: dict[str, Any], target: Any) -> SimpleNamespace:
    ids = [f"s{i}" for i in range(len(target))]
    return SimpleNamespace(predicted=predicted, target=target, row_ids=ids)


def test_of_sets_of_labels_those_with_most_that_are_off() -> None:
    evaluator: Any = MultiLabel(source="held_out").build()
    evaluator._names = ["a", "b", "c"]
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
    probability = np.array([[0.9, 0.1, 0], [0.49, 0.49, 0.51], [0, 0.6, 0.9], [0.99, 0, 0]])
    found = encoded(evaluator, judged({"probability": probability}, truth))
    mistakes = evaluator.mistakes(found, 9)
    assert [(m.id, m.right, m.said, m.wrong) for m in mistakes] == [
        ("s1", "a, b", "c", 3),
        ("s3", "b", "a", 2),
        ("s2", "c", "b, c", 1),
    ]
    micro = evaluator.details(found)["averages"][0]
    assert micro == {"class": "micro avg", "n": 5, "precision": 0.4, "recall": 0.4, "f1": 0.4}


def test_of_numbers_those_that_are_farthest_off() -> None:
    evaluator: Any = Regression(source="held_out").build()
    y, p = np.array([1.0, 2, 3, 4]), np.array([1.0, 5, 2.5, 4.1])
    found = encoded(evaluator, judged({"value": p}, y))
    mistakes = evaluator.mistakes(found, 2)
    assert [(m.id, m.right, m.said, m.wrong) for m in mistakes] == [
        ("s1", "2", "5", 3.0),
        ("s2", "3", "2.5", 0.5),
    ]
    assert evaluator.details(found)["points"] == [[1, 1], [2, 5], [3, 2.5], [4, 4.1]]
    many = np.random.default_rng(0).permutation(3000).astype(float)
    points = evaluator.details(encoded(evaluator, judged({"value": -many}, many)))["points"]
    assert len(points) == POINTS
    assert (points[0], points[-1]) == ([0.0, 0.0], [2999.0, -2999.0])


def numbers(texts: list[str], names: list[str]) -> Any:
    rows = [[names.index(tag) for tag in text.split()] for text in texts]
    width = max(map(len, rows))
    return np.array([row + [IGNORE_INDEX] * (width - len(row)) for row in rows])


def test_of_texts_those_with_most_wrong_entities() -> None:
    names = ["B-a", "B-b", "I-a", "O"]
    evaluator: Any = Tokens(source="held_out").build()
    evaluator._names = names
    truth = numbers(["B-a I-a O", "O O", "B-a O B-b B-a", "O"], names)
    told = numbers(["B-a O O", "O O", "B-b O B-b O", "O"], names)
    found = encoded(evaluator, judged({"tags": told}, truth))
    first, second = evaluator.mistakes(found, 9)
    assert (first.id, first.wrong) == ("s2", 3)
    assert first.spans == {
        "right": [("a", 0, 1), ("b", 2, 3), ("a", 3, 4)],
        "said": [("b", 0, 1), ("b", 2, 3)],
    }
    assert first.said == "2 marked, 1 of them right"
    assert second.spans == {"right": [("a", 0, 2)], "said": [("a", 0, 1)]}


def test_of_other_tags_the_tokens_that_are_wrong() -> None:
    names = ["noun", "verb"]
    evaluator: Any = Tokens(source="held_out").build()
    evaluator._names = names
    truth, told = numbers(["noun verb noun"], names), numbers(["noun noun verb"], names)
    found = encoded(evaluator, judged({"tags": told}, truth))
    (only,) = evaluator.mistakes(found, 9)
    assert only.spans == {
        "right": [("verb", 1, 2), ("noun", 2, 3)],
        "said": [("noun", 1, 2), ("verb", 2, 3)],
    }
    assert evaluator.details(found)["confusion"] == {"classes": names, "counts": [[1, 1], [1, 0]]}


@pytest.mark.parametrize("gallery", ["image", "text"])
def test_of_queries_those_whose_answer_stands_farthest_behind(gallery: str) -> None:
    evaluator: Any = Retrieval(
        query=Side(source="a", modality="image"), gallery=Side(source="a", modality=gallery)
    ).build()
    source = concept_source(copies=2, noise=3.0)
    found = evaluator.encode(FakePredictor(), {"a": source})
    mistakes = evaluator.mistakes(found, 5)
    (median,) = [s for s in evaluator.score(found) if s.name.endswith(f"to_{gallery}_median_rank")]
    assert [m.wrong for m in mistakes] == sorted((m.wrong for m in mistakes), reverse=True)
    assert mistakes[0].wrong + 1 > median.value
    groups = dict(zip(source.ids, source.groups, strict=True))
    for mistake in mistakes:
        rank = int(mistake.said.split()[1])
        assert (mistake.right, rank - 1) == ("first", round(mistake.wrong))
        assert mistake.beside_source == "a"
        assert groups[mistake.beside["came first"]] != groups[mistake.id]
        assert groups[mistake.beside.get("is right", mistake.id)] == groups[mistake.id]
        if gallery == "image":
            assert mistake.beside["is right"] != mistake.id


def test_of_histories_those_whose_next_item_stands_farthest_behind() -> None:
    evaluator: Any = Recommendation(source="a").build()
    evaluator.check_model(SimpleNamespace(head=SimpleNamespace(held_out=2, item_ids=list("xyz"))))
    ranked = SimpleNamespace(
        row_ids=["u", "v", "w"],
        rank=np.array([1.0, 2.0, 3.0]),
        candidates=np.array([3, 3, 3]),
        histories=[np.array([0, 1]), np.array([1, 2]), np.array([2, 0])],
    )
    mistakes = evaluator.mistakes(encoded(evaluator, ranked), 9)
    assert [(m.id, m.right, m.said) for m in mistakes] == [
        ("w", "x came next", "rank 3 of 3"),
        ("v", "z came next", "rank 2 of 3"),
    ]


def test_of_captions_those_that_share_least_with_a_reference() -> None:
    evaluator: Any = Caption(source="a").build()
    found = Found(
        ["a red ring", "a blue star", "a red star"],
        [["a red ring"], ["one green dot", "dots"], ["a blue star"]],
        ["s0", "s1", "s2"],
        np.arange(3),
        (),
    )
    first, second = evaluator.mistakes({evaluator.readings[0]: found}, 9)
    assert (first.id, first.said, first.right) == ("s1", "a blue star", "one green dot / dots")
    assert (second.id, second.wrong) == ("s2", pytest.approx(1 / 3))


RNG = np.random.default_rng(0)
TRUTH, PREDICTED = RNG.integers(0, 5, 200), RNG.integers(1, 6, 200)
NAMES = list("abcdefgh")


def test_the_confusion_matrix_and_the_averages_are_those_of_sklearn() -> None:
    found = classification.confusion(TRUTH, PREDICTED, NAMES)["confusion"]
    assert found["classes"] == list("abcdef")
    assert found["counts"] == confusion_matrix(TRUTH, PREDICTED).tolist()
    theirs = classification_report(TRUTH, PREDICTED, output_dict=True, zero_division=0)
    rows = classification.averages(classification.per_class(TRUTH, PREDICTED, NAMES))
    for row in rows:
        want = theirs[row["class"]]
        assert row["n"] == want["support"]
        for ours, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert row[ours] == pytest.approx(want[key], abs=1e-12)


def test_of_many_classes_the_pairs_that_are_confused_most() -> None:
    found = classification.confusion(TRUTH, PREDICTED, NAMES, most=5)
    counts = confusion_matrix(TRUTH, PREDICTED)
    np.fill_diagonal(counts, 0)
    assert list(found) == ["confused"]
    assert len(found["confused"]) == 2
    assert [p["n"] for p in found["confused"]] == sorted(counts.flatten().tolist())[:-3:-1]
    for pair in found["confused"]:
        assert counts[NAMES.index(pair["right"]), NAMES.index(pair["said"])] == pair["n"]


def test_a_prediction_of_nothing_is_in_no_column() -> None:
    found = classification.confusion(np.array([0, 1, 1]), np.array([0, -1, 1]), ["a", "b"])
    assert found["confusion"]["counts"] == [[1, 0], [0, 1]]


class Plain(Evaluator):
    """A task that tells no more than a score, as those of others."""

    readings = ()

    def score(self, encoded: Any) -> list[Score]:
        return [Score("loss", 1.0, 3)]


def test_examining_gives_scores_details_and_mistakes() -> None:
    assert Plain().examine(FakePredictor(), {}, 5) == Findings([Score("loss", 1.0, 3)], {}, [])
    evaluator: Any = Retrieval(
        query=Side(source="a", modality="image"), gallery=Side(source="a", modality="text")
    ).build()
    data = {"a": concept_source(copies=2, noise=3.0)}
    found = evaluator.examine(FakePredictor(), data, 3)
    assert found.scores == evaluator(FakePredictor(), data)
    assert found.details["query_rows"] == 40
    assert len(found.mistakes) == 3
    assert evaluator.examine(FakePredictor(), data, 0).mistakes == []
