"""The retrieval head is the contrastive objective on the shared space."""

from __future__ import annotations

import pytest
import torch

import mmfm
from mmfm.config import ConfigError
from tests import tiny

PAIRS = {"pairs": [["image", "text"], ["audio+image", "text"]], "temperature": 0.2}


def build(tokenizer: str, section: str):
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings |= (
        {"head": {"type": "retrieval", **PAIRS}}
        if section == "head"
        else {"objectives": {"head": {"type": "contrastive", **PAIRS}}}
    )
    torch.manual_seed(0)
    return mmfm.build(settings)


def test_losses_counts_and_gradients_are_those_of_the_objective(tokenizer) -> None:
    batch = tiny.make_batch(0)
    found = []
    for section in ("head", "objectives"):
        task = build(tokenizer, section)
        prepared = task.prepare(batch)
        losses, counts = task(prepared).losses, task.counts(prepared)
        assert list(task.cached) == ["head"]
        task.total(losses, counts).backward()
        gradient = task.model.projections["image"].maps["linear"].weight.grad
        values = {n: (t.item(), c.item(), counts[n].item()) for n, (t, c) in losses.items()}
        found.append((values, gradient))
    assert found[0][0] == found[1][0]
    assert set(found[0][0]) == {"head/image_text", "head/audio+image_text"}
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_every_parameter_of_the_head_is_registered_once(tokenizer) -> None:
    task = build(tokenizer, "head")
    names = [n for n in task.state_dict() if "log_scale" in n]
    assert names == ["objectives.head.head.contrastive.logit_scale.log_scale"]
    assert task.head.objective().reads == task.head.reads


def test_rows_for_grad_cache(tokenizer) -> None:
    task = build(tokenizer, "head")
    batch = task.prepare(tiny.make_batch(0))
    output = task(batch, rows_only=True)
    losses = task.cached_losses(output.rows, output.scalars)
    whole = task(batch).losses
    for name, (total, count) in whole.items():
        assert losses[name][0].item() == pytest.approx(total.item(), rel=1e-6)
        assert losses[name][1].item() == count.item()


def test_outputs_loss_and_predictions(tokenizer) -> None:
    task = build(tokenizer, "head").eval()
    batch = task.prepare(tiny.make_batch(0))
    outputs = task(batch, predict=True).predictions
    pairs, parts = ("image_text", "audio+image_text"), ("a", "b", "group")
    assert set(outputs) == {f"{pair}.{part}" for pair in pairs for part in parts}
    loss = task.head.loss(outputs, batch)
    assert loss["image_text"][0].item() == task(batch).losses["head/image_text"][0].item()
    assert task.head.predict(outputs) is outputs


def test_refusals(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "retrieval", "pairs": [["image", "smell"]]}
    with pytest.raises(ConfigError, match=r"^head: pairs: 'smell' names 'smell'"):
        mmfm.build(settings)
