"""Tasks on ready-made vectors: perfect, random and missing ones, and what must be refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmfm.config import ConfigError
from mmfm.types import Label, LabelKind
from tests.eval.fakes import (
    IMAGE,
    LABELLED,
    TEXT,
    FakePredictor,
    concept_source,
    retrieval,
    scores,
    task,
)


def test_perfect_embeddings_retrieve_everything() -> None:
    found = scores(retrieval(IMAGE, TEXT), a=concept_source(noise=0))
    for direction in ("image_to_text", "text_to_image"):
        for metric in ("R@1", "R@5", "R@10", "MRR", "median_rank"):
            assert found[f"{direction}_{metric}"].value == 1
    assert found["image_to_text_R@1"].n == 40
    assert found["image_to_text_R@1"].chance == pytest.approx(2 / 40)
    assert len(found) == 10


def test_random_embeddings_are_at_chance() -> None:
    rng = np.random.default_rng(2)
    source = concept_source(copies=3, concepts=100)
    noise = {m: list(rng.normal(size=(300, 16))) for m in ("image", "text")}
    found = scores(retrieval(IMAGE, TEXT), a=replace(source, vectors=noise))
    for name, score in found.items():
        assert score.ci95 is not None, name
        assert score.chance is not None, name
        low, high = score.ci95
        slack = 0.5 * (high - low)  # ten intervals at 95 %: one may just miss
        assert low - slack <= score.chance <= high + slack, name


def test_one_row_per_group_makes_a_gallery_of_concepts() -> None:
    gallery = {**TEXT, "one_per_group": True}
    found = scores(retrieval(IMAGE, gallery), a=concept_source(copies=3))
    assert found["image_to_text_R@1"].n == 60
    assert found["image_to_text_R@1"].chance == pytest.approx(1 / 20)
    assert found["text_to_image_R@1"].n == 20
    assert found["text_to_image_R@1"].chance == pytest.approx(3 / 60)


def test_only_shared_groups_are_ranked_unless_asked() -> None:
    a, b = concept_source(copies=1, concepts=20), concept_source("t", copies=1, concepts=30)
    text = {"source": "b", "modality": "text"}
    shared = scores(retrieval(IMAGE, text), a=a, b=b)
    assert shared["image_to_text_R@1"].chance == pytest.approx(1 / 20)
    every = scores(retrieval(IMAGE, text, only_shared_groups=False), a=a, b=b)
    assert every["image_to_text_R@1"].chance == pytest.approx(1 / 30)
    assert every["text_to_image_R@1"].n == 20  # ten texts have no picture to find
    far = replace(b, groups=[g + 1000 for g in b.groups])
    with pytest.raises(ValueError, match="no group stands both"):
        scores(retrieval(IMAGE, text), a=a, b=far)


def test_pictures_of_two_sources_are_named_by_source() -> None:
    a, b = concept_source("a"), concept_source("b", seed=1)
    names = scores(retrieval(IMAGE, {"source": "b", "modality": "image"}), a=a, b=b)
    assert "a.image_to_b.image_R@1" in names
    assert "b.image_to_a.image_R@1" in names


def test_a_sample_does_not_find_itself() -> None:
    found = scores(retrieval(IMAGE, IMAGE), a=concept_source(copies=2, noise=0))
    assert set(found) == {
        f"image_to_image_{m}" for m in ("R@1", "R@5", "R@10", "MRR", "median_rank")
    }
    assert found["image_to_image_R@1"].chance == pytest.approx(1 / 39)
    alone = concept_source(copies=1)
    with pytest.raises(ValueError, match="no query has a relevant item"):
        scores(retrieval(IMAGE, IMAGE), a=alone)


def test_pooled_outputs_are_compared_by_cosine() -> None:
    source = concept_source(copies=3, noise=1.5)
    lengths = np.linspace(1, 9, len(source.ids))  # a plain inner product would prefer the longest
    long = [v * n for v, n in zip(source.vectors["image"], lengths, strict=True)]
    source = replace(source, vectors={"image": long})
    pooled = scores(retrieval(IMAGE, IMAGE, features="pooled"), a=source)
    assert pooled == scores(retrieval(IMAGE, IMAGE), a=source)
    assert 0.05 < pooled["image_to_image_R@1"].value < 1
    with pytest.raises(ValueError, match="one modality on both sides"):
        retrieval(IMAGE, TEXT, features="pooled")


def test_fused_queries_are_the_samples_that_have_all_modalities() -> None:
    source = concept_source(copies=2, noise=0)
    audio: list[Any] = list(source.vectors["audio"])
    audio[:10] = [None] * 10
    source = replace(source, vectors={**source.vectors, "audio": audio})
    fused = {"source": "a", "modalities": ["audio", "image"]}
    found = scores(retrieval(fused, TEXT), a=source)
    assert found["audio+image_to_text_R@1"].n == 30
    assert found["audio+image_to_text_R@1"].value == 1
    with pytest.raises(ConfigError, match="a query would find itself"):
        retrieval({"source": "a", "modalities": ["image", "text"]}, TEXT)
    same_ids = retrieval({"source": "b", "modalities": ["image", "text"]}, TEXT)
    with pytest.raises(ValueError, match="the very pictures, texts or sounds"):
        scores(same_ids, a=source, b=source)


def test_what_a_task_lacks_is_named() -> None:
    source = concept_source()
    with pytest.raises(ConfigError, match="either modality"):
        retrieval({"source": "a"}, TEXT)
    with pytest.raises(ConfigError, match="no source 'animls'; did you mean 'animals'"):
        scores(retrieval({"source": "animls", "modality": "image"}, TEXT), a=source, animals=source)
    with pytest.raises(ConfigError, match="no encoder for 'video'"):
        scores(retrieval({"source": "a", "modality": "video"}, TEXT), a=source)
    with pytest.raises(ValueError, match="no sample with 'text'"):
        scores(
            retrieval(IMAGE, TEXT), a=replace(source, vectors={"image": source.vectors["image"]})
        )
    with pytest.raises(ConfigError, match="compares pictures with pictures"):
        retrieval(IMAGE, TEXT, baseline="pixels")


@pytest.mark.parametrize("kind", ["knn", "linear_probe"])
def test_clear_classes_are_found_and_judged_beside_the_majority(kind: str) -> None:
    train, test = concept_source("a", copies=8, noise=0.3), concept_source("b", noise=0.3, seed=1)
    test = replace(test, names=["", *test.names[1:]], label_names={"animal": ["fish", "dog"]})
    evaluator = task(type=kind, **LABELLED)
    found = scores(evaluator, a=train, b=test)
    assert found["accuracy"].value > 0.95
    assert found["accuracy"].n == 39  # one without a label
    assert found["accuracy"].chance == 0.25
    assert found["accuracy"].baseline == pytest.approx(9 / 39)  # "bird", the lowest of four equals
    assert found["accuracy"].baseline_name == "majority class"
    encoded = evaluator.encode(FakePredictor(), {"a": train, "b": test})
    assert evaluator.details(encoded)["test_without_label"] == 1


def test_knn_on_one_source_leaves_each_sample_out() -> None:
    source = concept_source(copies=2, concepts=20)
    rng = np.random.default_rng(0)
    noise = {"image": list(rng.normal(size=(40, 16)))}
    settings = {**LABELLED, "test": "a", "k": 1}
    found = scores(task(type="knn", **settings), a=replace(source, vectors=noise))
    assert found["accuracy"].value < 0.6  # 1.0 if a sample voted for itself
    with pytest.raises(ValueError, match="39 samples that may vote"):
        scores(task(type="knn", **{**settings, "k": 40}), a=source)


def test_the_probe_chooses_c_on_train_and_fits_all_of_it() -> None:
    train = concept_source("a", copies=6, noise=2)
    test = concept_source("b", noise=2, seed=1)
    evaluator = task(type="linear_probe", features="pooled", **LABELLED)
    data = {"a": train, "b": test}
    encoded = evaluator.encode(FakePredictor(), data)
    found = {s.name: s for s in evaluator.score(encoded)}
    chosen = evaluator.details(encoded)["C"]
    number = {name: i for i, name in enumerate(sorted(set(train.names)))}
    scaler = StandardScaler().fit(np.stack(train.vectors["image"]))
    reference = LogisticRegression(C=chosen, max_iter=1000).fit(
        scaler.transform(np.stack(train.vectors["image"])), [number[n] for n in train.names]
    )
    expected = reference.score(
        scaler.transform(np.stack(test.vectors["image"])), [number[n] for n in test.names]
    )
    assert found["accuracy"].value == pytest.approx(expected, abs=1e-9)
    shuffled = replace(test, names=test.names[::-1])
    encoded = evaluator.encode(FakePredictor(), {"a": train, "b": shuffled})
    list(evaluator.score(encoded))
    assert evaluator.details(encoded)["C"] == chosen  # the test labels have no say
    with pytest.raises(ValueError, match="share samples"):
        scores(evaluator, a=train, b=train)


def test_a_head_is_judged_with_calibration_and_per_class() -> None:
    predictor = FakePredictor()
    predictor.head = SimpleNamespace(label="animal", label_names=["fish", "dog", "cat", "bird"])
    source = concept_source(copies=3)
    number = {n: i for i, n in enumerate(predictor.head.label_names)}
    sure = [np.where(np.arange(16) == number[n], 50.0, 0.0) for n in source.names]
    sure[0] = np.roll(sure[0], 1)  # a "bird" taken for something beyond the four: logits all 0
    source = replace(source, vectors={"image": sure})
    evaluator = task(type="classification", source="a")
    found = scores(evaluator, predictor, a=source)
    assert found["accuracy"].value == pytest.approx(59 / 60)
    assert found["ece"].value == pytest.approx(0.25 / 60, abs=1e-6)  # a quarter sure, and wrong
    assert found["accuracy"].baseline == 0.25
    encoded = evaluator.encode(predictor, {"a": source})
    table = {row["class"]: row for row in evaluator.details(encoded)["per_class"]}
    assert table["bird"]["recall"] == pytest.approx(14 / 15)
    assert table["fish"]["precision"] == pytest.approx(15 / 16)
    with pytest.raises(ConfigError, match="needs a checkpoint with a classification head"):
        scores(evaluator, FakePredictor(), a=source)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("set", "use the task multi_label"),
        ("number", "use the task regression"),
        ("tags", "use the task token_classification"),
    ],
)
def test_what_is_not_one_class_a_sample_has_its_own_task(kind: LabelKind, message: str) -> None:
    head = SimpleNamespace(label="kind", label_names=["a", "b"])
    predictor: Any = SimpleNamespace(head=head, specs={}, label=Label("kind", ["a", "b"], kind))
    evaluator = task(type="classification", source="a")
    with pytest.raises(ConfigError, match=message):
        evaluator.check_model(predictor)
    predictor.label = Label("kind", ["a", "b"])
    evaluator.check_model(predictor)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "retrieval", "query": {"source": "b", "modality": "image"}, "gallery": TEXT},
        {"type": "knn", "k": 3, **LABELLED},
    ],
)
def test_repeated_queries_make_no_interval_narrower(settings: dict[str, Any]) -> None:
    train = concept_source("a", copies=4, noise=2)
    test = concept_source("b", copies=1, noise=2, seed=1)
    repeated = replace(
        test,
        ids=[f"{i}/{n}" for n in range(9) for i in test.ids],
        groups=test.groups * 9,
        names=test.names * 9,
        vectors={m: v * 9 for m, v in test.vectors.items()},
    )
    once = scores(task(**settings), a=train, b=test)
    often = scores(task(**settings), a=train, b=repeated)
    name = "image_to_text_R@1" if settings["type"] == "retrieval" else "accuracy"
    assert 0 < once[name].value < 1
    assert often[name].value == once[name].value
    assert often[name].n == 9 * once[name].n
    assert often[name].ci95 == pytest.approx(once[name].ci95)
