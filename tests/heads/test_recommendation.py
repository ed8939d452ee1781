"""The recommendation head: causal, the same in training and use, its loss and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmfm
from mmfm.config import ConfigError
from mmfm.heads.recommendation import RecommendationHead
from mmfm.predictor import Predictor
from mmfm.types import IGNORE_INDEX, Batch
from tests import tiny

IDS = [f"i{n}" for n in range(9)]


def settings(tokenizer: str, frozen: bool = True, **head: Any) -> dict[str, Any]:
    text = {**tiny.task_settings(tokenizer)["model"]["encoders"]["text"], "frozen": frozen}
    return {
        "model": {"embed_dim": 16, "encoders": {"text": text}},
        "head": {
            "type": "recommendation",
            "items": {"path": "unused"},
            "width": 16,
            "max_length": 6,
            **head,
        },
    }


def build(tokenizer: str, **head: Any):
    torch.manual_seed(0)
    task = mmfm.build(settings(tokenizer, **head), label_names=IDS).eval()
    chosen = task.head
    assert isinstance(chosen, RecommendationHead)
    for parameter in chosen.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    for modality in chosen.modalities:
        chosen.set_item_features(modality, torch.arange(9), torch.randn(9, 16))
    return task


def batch_of(*histories: list[int], train: bool = False) -> Batch:
    """Histories with the padding that the pipeline gives; in training each item's next one."""
    cut = 1 if train else 0
    length = max(1, max(len(h) - cut for h in histories))
    history = torch.zeros(len(histories), length, dtype=torch.int64)
    following = torch.full_like(history, IGNORE_INDEX)
    mask = torch.zeros_like(history, dtype=torch.bool)
    for row, h in enumerate(histories):
        n = max(0, len(h) - cut)
        history[row, :n] = torch.tensor(h[:n])
        mask[row, :n] = True
        following[row, : len(h) - 1] = torch.tensor(h[1:]) if train else IGNORE_INDEX
    batch: Batch = {
        "history": history,
        "history_mask": mask,
        "rows": {"history": torch.arange(len(histories))},
        "sample_id": [str(i) for i in range(len(histories))],
    }
    return {**batch, "history_next": following} if train else batch


@torch.no_grad()
def logits(task, *histories: list[int], train: bool = False) -> Tensor:
    return task.head({}, batch_of(*histories, train=train))["logits"]


def test_later_items_change_nothing_before_them(tokenizer: str) -> None:
    task = build(tokenizer)
    one = logits(task, [1, 2, 3, 4, 5], train=True)
    other = logits(task, [1, 2, 3, 8, 0], train=True)
    assert torch.equal(one[:3], other[:3])
    assert (one[3] - other[3]).abs().max() > 1e-3
    assert (logits(task, [1, 2]) - logits(task, [2, 1])).abs().max() > 1e-3


def test_use_gives_what_training_learns(tokenizer: str) -> None:
    task = build(tokenizer)
    trained = logits(task, [1, 2, 3, 4], [5, 6], train=True)
    used = logits(task, [1], [1, 2], [1, 2, 3], [5])
    assert torch.allclose(trained, used, atol=1e-6)


def test_only_the_latest_items_are_read(tokenizer: str) -> None:
    task = build(tokenizer)
    long, latest = logits(task, [7, 7, 7, 1, 2, 3, 4, 5, 6], [3]), logits(task, [1, 2, 3, 4, 5, 6])
    assert torch.allclose(long[:1], latest, atol=1e-6)
    assert torch.allclose(long[1:], logits(task, [3]), atol=1e-6)


def test_loss_is_the_sum_of_cross_entropies_over_all_items(tokenizer: str) -> None:
    task = build(tokenizer)
    histories = [[1, 2, 3, 4], [5, 6], [0]]
    batch = batch_of(*histories, train=True)
    (total, count) = task.head.loss(task.head({}, batch), batch)["next_item"]
    wanted = [
        F.cross_entropy(logits(task, h[: k + 1])[0], torch.tensor(h[k + 1]))
        for h in histories
        for k in range(len(h) - 1)
    ]
    assert count == len(wanted) == 4
    assert task.head.counts(batch) == {"next_item": torch.tensor(4.0)}
    assert total.item() == pytest.approx(torch.stack(wanted).sum().item(), rel=1e-6)


def test_nothing_to_learn_from_is_a_loss_of_zero(tokenizer: str) -> None:
    task = build(tokenizer)
    batch = batch_of([3], train=True)
    total, count = task.head.loss(task.head({}, batch), batch)["next_item"]
    assert (total.item(), count.item()) == (0.0, 0)
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in task.head.parameters())


def test_a_batch_without_histories_has_no_places(tokenizer: str) -> None:
    task = build(tokenizer)
    batch = {"group": torch.arange(3), "rows": {}, "sample_id": ["a", "b", "c"]}
    assert task.head.counts(batch) == {"next_item": torch.tensor(0.0)}
    total, count = task.head.loss(task.head({}, batch), batch)["next_item"]
    assert (total.item(), count.item(), total.requires_grad) == (0.0, 0, True)


def test_every_parameter_learns(tokenizer: str) -> None:
    task = build(tokenizer).train()
    batch = batch_of([1, 2, 3, 4, 5, 6, 7], train=True)
    task.head.loss(task.head({}, batch), batch)["next_item"][0].backward()
    still = [n for n, p in task.head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    assert not any(p.ndim == 0 for p in task.head.parameters())  # ZeRO can't have those


def test_dropout_is_a_function_of_its_seed(tokenizer: str) -> None:
    task = build(tokenizer, dropout=0.5, item_dropout=0.2).train()
    batch = batch_of([1, 2, 3, 4], train=True)

    def drawn(seed: int) -> Tensor:
        torch.rand(3)
        return task.head({}, {**batch, "dropout_seed": seed})["logits"]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_what_the_encoder_says_of_an_item_counts(tokenizer: str) -> None:
    task = build(tokenizer)
    before = logits(task, [1, 2])
    task.head.set_item_features("text", torch.tensor([0, 2]), torch.randn(2, 16) * 40)
    table = task.head.item_text
    assert table[[0, 2]].norm(dim=1).tolist() == pytest.approx([4.0, 4.0], rel=1e-5)  # 16 ** 0.5
    assert not table[1].any()
    assert (logits(task, [1, 2]) - before).abs().max() > 1e-3
    ids_only = build(tokenizer, modalities=[])
    assert {n for n, _ in ids_only.head.named_buffers()} == set()
    assert not len(ids_only.head.item_projections)


def test_predictions_are_all_items_by_score(tokenizer: str) -> None:
    task = build(tokenizer)
    outputs = task.head({}, batch_of([1, 2], [3]))
    found = task.head.predict(outputs)
    assert found["item"].shape == (2, 9)
    assert (outputs["logits"].gather(1, found["item"]).diff(dim=1) <= 0).all()


def test_a_user_asks_for_recommendations(tokenizer: str) -> None:
    predictor = Predictor(build(tokenizer))
    with pytest.raises(ConfigError, match=r"RecommendationHead says nothing .*: use recommend"):
        predictor.predict(histories=[["i1", "i2"]])
    assert len(predictor.recommend(["i1", "i2"], k=3)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ["smell"]}, "no encoder of 'smell'"),
        ({"frozen": False}, "encoder of 'text' trains"),
        ({"held_out": -1}, "held_out"),
        ({"max_length": 0}, "max_length"),
        ({"item_dropout": 1.0}, "item_dropout"),
        ({"width": 15}, "multiple of heads"),
    ],
)
def test_refusals(tokenizer: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mmfm.build(settings(tokenizer, **change), label_names=IDS)


def test_one_item_is_nothing_to_choose_from(tokenizer: str) -> None:
    with pytest.raises(ConfigError, match="holds 1 items"):
        mmfm.build(settings(tokenizer), label_names=IDS[:1])
