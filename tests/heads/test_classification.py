"""The classification head: losses with missing labels and modalities, predictions, refusals."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

import mmfm
from mmfm.config import Component, ConfigError, component
from mmfm.types import IGNORE_INDEX
from tests import tiny

NAMES = ["bird", "cat", "dog"]
MODALITIES = ("image", "text", "audio")
HEADS = Component("mmfm.heads")


def build(tokenizer: str, **head):
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "classification", "label": "animal", **head}
    torch.manual_seed(0)
    task = mmfm.build(settings, label_names=NAMES).eval()
    torch.nn.init.normal_(task.head.classifier.weight)
    return task


def labelled(gone=()):
    batch = tiny.make_batch(0)
    batch["labels"] = torch.arange(tiny.GLOBAL_BATCH) % 3
    batch["labels"][[1, 2, 9]] = IGNORE_INDEX
    for m in gone:
        batch.pop(m)
        batch.pop(f"{m}_mask", None)
        batch["rows"].pop(m)
    return batch


def test_one_modality_is_taken_as_it_is(tokenizer) -> None:
    task = build(tokenizer, modalities=["image"])
    batch = task.prepare(labelled())
    rows = batch["rows"]["image"]
    _, pooled = task.model.encoder("image")(batch["image"])
    logits = task.head.classifier(task.head.norm(pooled))
    labels = batch["labels"][rows]
    want = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    total, count = task(batch).losses["head/classification"]
    assert count.item() == (labels != IGNORE_INDEX).sum().item() < len(rows)
    assert (total / count).item() == pytest.approx(want.item(), rel=1e-6)
    outputs = task(batch, predict=True).predictions
    assert torch.equal(outputs["rows"], rows)
    torch.testing.assert_close(outputs["logits"], logits)


def test_several_are_fused_whatever_a_sample_has_of_them(tokenizer) -> None:
    task = build(tokenizer, modalities=["image", "audio"])
    batch = task.prepare(labelled())
    outputs = task(batch, predict=True).predictions
    some = sorted({*batch["rows"]["image"].tolist(), *batch["rows"]["audio"].tolist()})
    assert outputs["rows"].tolist() == some
    features = task.model.encode(batch, ["image", "audio"])
    fused = task.model.fuse(features, ["image", "audio"]).fused_pooled
    want = task.head.classifier(task.head.norm(fused))
    torch.testing.assert_close(outputs["logits"], want)


@pytest.mark.parametrize("modalities", [["image"], ["text", "image"], list(MODALITIES)])
@pytest.mark.parametrize(
    "gone", [g for n in range(4) for g in combinations(MODALITIES, n)], ids="-".join
)
def test_counts_are_those_of_the_loss(tokenizer, modalities, gone) -> None:
    task = build(tokenizer, modalities=modalities)
    batch = task.prepare(labelled(gone))
    total, count = task(batch).losses["head/classification"]
    assert task.counts(batch)["head/classification"].item() == count.item()
    assert total.isfinite()
    if set(modalities) <= set(gone):
        assert (total.item(), count.item()) == (0.0, 0)
        assert len(task(batch, predict=True).predictions["logits"]) == 0


def test_samples_without_a_label_give_no_gradient(tokenizer) -> None:
    task = build(tokenizer, modalities=["text"])
    batch = task.prepare(labelled())
    batch["labels"][:] = IGNORE_INDEX
    total, count = task(batch).losses["head/classification"]
    assert (total.item(), count.item()) == (0.0, 0)
    total.backward()
    assert not task.head.classifier.weight.grad.any()


def test_label_smoothing(tokenizer) -> None:
    plain, smooth = (build(tokenizer, modalities=["image"], label_smoothing=s) for s in (0.0, 0.2))
    batch = plain.prepare(labelled())
    outputs = plain(batch, predict=True).predictions
    labels = batch["labels"][outputs["rows"]]
    known = labels != IGNORE_INDEX
    logs = outputs["logits"].log_softmax(-1)[known]
    want = -(0.8 * logs.gather(1, labels[known][:, None])[:, 0] + 0.2 * logs.mean(1)).sum()
    got, count = smooth(batch).losses["head/classification"]
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert count.item() == known.sum().item()


def test_predictions_and_metrics(tokenizer) -> None:
    task = build(tokenizer, modalities=["image"])
    outputs = {
        "logits": torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]),
        "rows": torch.tensor([4, 7]),
    }
    found = task.head.predict(outputs)
    assert found["label"].tolist() == [1, 0]
    assert found["rows"].tolist() == [4, 7]
    torch.testing.assert_close(found["probability"], outputs["logits"].softmax(-1))
    assert set(task.head.metrics) == {"accuracy"}
    predicted = {"label": np.array([1, 0, 2, 2])}
    right = task.head.metrics["accuracy"](predicted, np.array([1, 1, 2, 0]))
    assert right.tolist() == [True, False, True, False]


def test_targets_are_the_labels_that_there_are(tokenizer) -> None:
    task = build(tokenizer, modalities=["image"])
    batch = {"labels": torch.tensor([2, IGNORE_INDEX, 0, 1])}
    target, known = task.head.target(batch, torch.tensor([0, 1, 3]))
    assert target[known].tolist() == [2, 1]
    assert known.tolist() == [True, False, True]


def test_a_new_head_knows_nothing_but_its_encoder_learns_at_once(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "classification", "label": "animal"}
    task = mmfm.build(settings, label_names=NAMES)
    batch = task.prepare(labelled())
    logits = task(batch, predict=True).predictions["logits"]
    assert logits.softmax(-1).sub(1 / 3).abs().max() < 0.1
    task(batch).losses["head/classification"][0].backward()
    assert all(p.grad.any() for p in task.model.encoders["image"].parameters())
    assert task.head.label_names == NAMES
    assert task.head.classifier.out_features == 3


@pytest.mark.parametrize(
    ("head", "names", "message"),
    [
        (
            {"modalities": ["smell"]},
            NAMES,
            r"head\.modalities names \['smell'\]; the model has image",
        ),
        ({"modalities": []}, NAMES, "modalities must name at least one"),
        ({"label_smoothing": 1.0}, NAMES, r"label_smoothing = 1\.0 must be in \[0, 1\)"),
        ({}, ["one"], "label 'animal' has 1 name: nothing to tell apart"),
        ({}, [], "label 'animal' has 0 name"),
        ({"focal": -1.0}, NAMES, "focal = -1.0 must not be negative"),
        ({"class_weights": {"bird": 0}}, NAMES, r"class_weights: bird = 0.0 must be above 0"),
        ({"class_weights": {"brid": 1}}, NAMES, "no label 'brid'; did you mean 'bird'"),
        ({"class_weights": "balanced"}, NAMES, "is worked out by mmfm finetune"),
    ],
)
def test_refusals(tokenizer, head, names, message) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "classification", "label": "animal", **head}
    with pytest.raises(ConfigError, match=message):
        mmfm.build(settings, label_names=names)


def test_classes_weigh_what_they_are_given(tokenizer) -> None:
    weights = {"bird": 2.0, "dog": 0.5}
    task = build(tokenizer, modalities=["image"], class_weights=weights)
    batch = task.prepare(labelled())
    outputs = task(batch, predict=True).predictions
    labels = batch["labels"][outputs["rows"]]
    weight = torch.tensor([2.0, 1.0, 0.5])
    want = F.cross_entropy(outputs["logits"], labels, weight, ignore_index=IGNORE_INDEX)
    total, count = task(batch).losses["head/classification"]
    torch.testing.assert_close(total / count, want)
    assert task.counts(batch)["head/classification"].item() == count.item()


def test_small_weights_train_as_large_ones(tokenizer) -> None:
    losses = []
    for scale in (1.0, 0.001):
        weights = {name: scale * w for name, w in zip(NAMES, (2.0, 1.0, 0.5), strict=True)}
        task = build(tokenizer, modalities=["image"], class_weights=weights)
        batch = task.prepare(labelled())
        losses.append(task.total(task(batch).losses, task.counts(batch)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_balanced_weights_are_scikit_learns(tokenizer) -> None:
    labels = ["cat"] * 5 + ["dog"] * 2 + ["bird"]
    config = component({"type": "classification", "label": "x", "class_weights": "balanced"}, HEADS)
    config.settle([(name,) for name in labels] + [()])
    want = compute_class_weight("balanced", classes=np.array(NAMES), y=np.array(labels))
    assert config.class_weights == dict(zip(NAMES, want, strict=True))
    several = component(
        {"type": "classification", "label": "x", "class_weights": "balanced", "multi_label": True},
        HEADS,
    )
    several.settle([("cat", "dog"), ("cat",), ("cat",), ("cat",), ()])
    assert several.class_weights == {"cat": 1 / 4, "dog": 3.0}


def multi_labelled():
    batch = tiny.make_batch(0)
    labels = torch.arange(3 * tiny.GLOBAL_BATCH).view(-1, 3) % 2
    labels[[1, 2, 9]] = IGNORE_INDEX
    return {**batch, "labels": labels}


def test_several_labels_a_sample(tokenizer) -> None:
    task = build(tokenizer, modalities=["image"], multi_label=True)
    batch = task.prepare(multi_labelled())
    outputs = task(batch, predict=True).predictions
    labels = batch["labels"][outputs["rows"]]
    known = labels[:, 0] != IGNORE_INDEX
    logits, target = outputs["logits"][known], labels[known].float()
    want = F.binary_cross_entropy_with_logits(logits, target)
    total, count = task(batch).losses["head/classification"]
    torch.testing.assert_close(total / count, want)
    assert count.item() == known.sum().item()
    assert task.counts(batch)["head/classification"].item() == count.item()
    found = task.head.predict(outputs)
    torch.testing.assert_close(found["probability"], outputs["logits"].sigmoid())
    answer = task.head.answers(found, batch)[0]
    sure = [n for n, p in zip(NAMES, found["probability"][0].tolist(), strict=True) if p >= 0.5]
    assert answer["labels"] == sure
    target, known_too = task.head.target(batch, outputs["rows"])
    assert torch.equal(known_too, known)
    right = task.head.metrics["accuracy"](
        {"probability": np.array([[0.9, 0.1], [0.9, 0.6]])}, np.array([[1, 0], [1, 0]])
    )
    assert right.tolist() == [True, False]


def test_several_modalities_need_a_fusion(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["model"]["fusion"] = None
    settings["head"] = {"type": "classification", "label": "x", "modalities": ["image", "text"]}
    with pytest.raises(ConfigError, match=r"names several, but model\.fusion is null"):
        mmfm.build(settings, label_names=NAMES)
