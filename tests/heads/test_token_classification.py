"""The head for tokens: losses, windows put together again, other modalities, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mmfm
from mmfm.config import ConfigError
from mmfm.data.collate import collate
from mmfm.data.decode import Sample, build_transforms
from mmfm.types import IGNORE_INDEX, Batch
from tests import tiny

NAMES = ["B-colour", "I-colour", "O"]


def build(tokenizer: str, names: Sequence[str] = NAMES, **head: Any) -> Any:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "token_classification", "overlap": 1, **head}
    torch.manual_seed(0)
    task = mmfm.build(settings, label_names=names).eval()
    torch.nn.init.normal_(task.head.classifier.weight)
    torch.nn.init.normal_(task.head.norm.weight)
    return task


TEXTS = [
    (["a", "red", "dot"], ["O", "B-colour", "O"]),
    (["green", "box"], None),
    (
        ["a", "blue", "bar", "tone", "a", "red", "dot", "a", "box"],
        ["O", "B-colour", *"OOO", "I-colour", *"OOO"],
    ),
]  # fmt: skip


def batch_of(task: Any, texts: Any = TEXTS, **others: dict[int, Any]) -> Batch:
    """`others`: modality ▶ inputs by the place of their sample."""
    transforms = build_transforms(task.specs)
    samples = []
    for place, (tokens, tags) in enumerate(texts):
        meta = {"tokens": tokens} if tags is None else {"tokens": tokens, "tags": tags}
        inputs = {}
        if tokens is not None:
            inputs["text"] = transforms["text"].decode({}, meta, None, False)
        inputs |= {m: found[place] for m, found in others.items() if place in found}
        samples.append(Sample(str(place), place, place, place, None, inputs=inputs))
    return task.prepare(collate(samples, transforms))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_tokens_with_a_tag(tokenizer: str, smoothing: float) -> None:
    task = build(tokenizer, label_smoothing=smoothing)
    batch = batch_of(task)
    tokens, _ = task.model.encoder("text")(batch["text"], batch["text_mask"])
    logits = task.head.classifier(task.head.norm(tokens))
    want, count = 0.0, 0
    for row, words in enumerate(batch["text_words"].tolist()):
        for place, word in enumerate(words):
            tag = int(batch["text_tags"][row, word])
            if word >= 0 and tag != IGNORE_INDEX:
                want += F.cross_entropy(
                    logits[row, place], torch.tensor(tag), label_smoothing=smoothing
                ).item()
                count += 1
    assert count == 3 + 9
    total, counted = task(batch).losses["head/token_classification"]
    assert counted.item() == task.counts(batch)["head/token_classification"].item() == count
    assert total.item() == pytest.approx(want, rel=1e-6)


def test_windows_are_one_text_again(tokenizer: str) -> None:
    task = build(tokenizer)
    batch = batch_of(task)
    assert len(batch["sample_id"]) > len(TEXTS)  # the last text is longer than the encoder takes
    found = task.head.predict(task(batch, predict=True).predictions)
    assert [batch["sample_id"][row] for row in found["rows"]] == ["0", "1", "2"]
    lengths = [len(tokens) for tokens, _ in TEXTS]
    assert (found["tags"] != IGNORE_INDEX).sum(1).tolist() == lengths
    assert ((found["tags"] >= 0) == ~found["probability"].isnan()).all()
    target, known = task.head.target(batch, found["rows"])
    assert target.shape == found["tags"].shape
    assert known.tolist() == [True, False, True]
    assert target[2].tolist() == [2, 0, 2, 2, 2, 1, 2, 2, 2]
    # Each token's tag is that of the window which owns it.
    outputs = task(batch, predict=True).predictions
    owner = {
        (int(p), int(w)): n
        for n, (p, w) in enumerate(zip(outputs["place"], outputs["word"], strict=True))
    }
    for (row, word), n in owner.items():
        sample = int(batch["sample_id"][row])
        assert found["tags"][sample, word] == outputs["logits"][n].argmax()
        torch.testing.assert_close(
            found["probability"][sample, word], outputs["logits"][n].softmax(-1).max()
        )


def test_samples_without_a_text_are_passed_over(tokenizer: str) -> None:
    task = build(tokenizer)
    texts = [(None, None), *reversed(TEXTS)]
    picture = {0: np.zeros((8, 8, 3), dtype=np.uint8)}
    batch = batch_of(task, texts, image=picture)
    found = task.head.predict(task(batch, predict=True).predictions)
    assert [batch["sample_id"][row] for row in found["rows"]] == ["1", "2", "3"]
    target, known = task.head.target(batch, found["rows"])
    assert known.tolist() == [True, False, True]
    assert target[2, :3].tolist() == [2, 0, 2]
    answers = task.head.answers(found, batch)
    assert [answer["tokens"] for answer in answers] == [tokens for tokens, _ in texts[1:]]


def test_settings_count(tokenizer: str) -> None:
    task = build(tokenizer, label="kind", overlap=2, dropout=0.3)
    assert task.specs["text"]["tags"] == {"field": "kind", "names": NAMES, "overlap": 2}
    assert task.head.dropout.p == 0.3
    meta = {"tokens": ["a", "red"], "tags": ["O", "O"], "kind": ["O", "B-colour"]}
    (window,) = build_transforms(task.specs)["text"].decode({}, meta, None, False)
    assert window.tags.tolist() == [2, 0]


def test_users_get_entities(tokenizer: str) -> None:
    task = build(tokenizer)
    batch = batch_of(task)
    found = task.head.predict(task(batch, predict=True).predictions)
    found["tags"][0, :3] = torch.tensor([2, 0, 1])
    found["tags"][1, :2] = torch.tensor([-1, 2])
    first, second, _ = task.head.answers(found, batch)
    assert first["tags"] == ["O", "B-colour", "I-colour"]
    assert first["entities"] == [{"type": "colour", "text": "red dot", "start": 1, "end": 3}]
    assert second["tags"] == ["O", "O"]


def test_pictures_beside_the_text_change_its_tags(tokenizer: str) -> None:
    task = build(tokenizer, beside=["image"])
    pictures = {
        0: np.random.default_rng(0).integers(0, 255, (8, 8, 3)),
        2: np.random.default_rng(0).integers(0, 255, (8, 8, 3)),
    }
    plain, seen = batch_of(task), batch_of(task, image=pictures)
    assert seen["rows"]["image"].tolist() == [0, 2, *range(3, len(seen["sample_id"]))]
    logits = [task(b, predict=True).predictions["logits"] for b in (plain, seen)]
    of_second = task(plain, predict=True).predictions["place"] == 1
    torch.testing.assert_close(logits[0][of_second], logits[1][of_second])
    assert not torch.allclose(logits[0][~of_second], logits[1][~of_second], atol=1e-3)


def test_a_batch_without_text_has_nothing_to_learn(tokenizer: str) -> None:
    task = build(tokenizer)
    batch = batch_of(task)
    empty = {k: v for k, v in batch.items() if not k.startswith("text")} | {"rows": {}}
    assert task.counts(empty)["head/token_classification"].item() == 0
    total, count = task(empty).losses["head/token_classification"]
    assert (total.item(), count.item()) == (0, 0)
    assert task.head.predict(task(empty, predict=True).predictions)["tags"].shape == (0, 0)


@pytest.mark.parametrize(
    ("head", "change", "message"),
    [
        (
            {},
            {"frozen": True, "cache": True},
            "cache=false",
        ),
        ({"beside": ["smell"]}, {}, "no encoder of 'smell'"),
        ({"beside": ["image"]}, {"fusion": None}, "model.fusion is null"),
        ({"dropout": 1.0}, {}, "must be at least 0 and below 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    tokenizer: str, head: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "token_classification", "overlap": 1, **head}
    fusion = {"fusion": change.pop("fusion")} if "fusion" in change else {}
    settings["model"] |= fusion
    settings["model"]["encoders"]["text"] |= change
    with pytest.raises(ConfigError, match=message):
        mmfm.build(settings, label_names=NAMES)


def test_one_tag_is_refused(tokenizer: str) -> None:
    with pytest.raises(ConfigError, match="1 tag: nothing to tell apart"):
        build(tokenizer, names=["O"])
