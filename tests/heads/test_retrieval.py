"""The retrieval head is the contrastive objective on the shared space."""

from __future__ import annotations

import pytest
import torch

import mmfm
from mmfm.config import ConfigError, from_dict
from mmfm.heads.retrieval import Config
from mmfm.objectives.contrastive import info_nce
from mmfm.predictor import Predictor
from mmfm.types import Batch
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


def test_a_user_asks_for_embeddings(tokenizer) -> None:
    predictor = Predictor(build(tokenizer, "head").eval())
    with pytest.raises(ConfigError, match=r"RetrievalHead says nothing .*: use encode"):
        predictor.predict(texts=["a red dot"])
    assert predictor.encode(texts=["a red dot"])["text"].shape[0] == 1


def with_negatives(batch: Batch, text_of: list[int], image_of: list[int]) -> Batch:
    """`batch` and behind it, as negatives, the texts and pictures of some of another one."""
    other, size = tiny.make_batch(7), len(batch["sample_id"])
    out = {**batch, "rows": dict(batch["rows"])}
    added = [*text_of, *image_of]
    out["sample_id"] = [*batch["sample_id"], *(f"n{i}" for i in added)]
    for key in ("group", "mask_seed", "sample_hash", "stream"):
        out[key] = torch.cat([batch[key], other[key][added]])
    out["negative"] = torch.arange(size + len(added)) >= size
    for m, chosen, start in (("text", text_of, size), ("image", image_of, size + len(text_of))):
        part = tiny.take_samples(other, torch.tensor(chosen))
        assert len(part["rows"][m]) == len(chosen)
        out["rows"][m] = torch.cat([batch["rows"][m], start + torch.arange(len(chosen))])
        for key in (m, f"{m}_mask"):
            if key in batch:
                out[key] = torch.cat([batch[key], part[key]])
    return out


def test_negatives_of_a_batch_are_further_columns(tokenizer) -> None:
    """Of every pair that has the side, also a fused one; they are no queries and not counted."""
    task = build(tokenizer, "head").eval()
    plain = task.prepare(tiny.make_batch(0))
    batch = task.prepare(with_negatives(tiny.make_batch(0), text_of=[0, 3, 5], image_of=[1, 2]))
    assert {n: c.item() for n, c in task.counts(batch).items()} == {
        n: c.item() for n, c in task.counts(plain).items()
    }
    with torch.no_grad():
        rows = task(batch, rows_only=True).rows["head"]
        found, scalars = task(batch).losses, task.objectives["head"].scalars()
        before = task(plain).losses
    other = task.features(tiny.make_batch(7), task.head.reads)
    for a, b in task.head.contrastive.pairs:
        name = f"{'+'.join(a.modalities)}_{'+'.join(b.modalities)}"
        texts = other[b].embedding["text"][[0, 3, 5]].detach()
        torch.testing.assert_close(rows[f"{name}.b_more"], texts, rtol=1e-5, atol=1e-5)
        assert rows[f"{name}.a_more"].shape == (2, 16)
        more = [(rows[f"{name}.{k}_more"], rows[f"{name}.{k}_more_group"]) for k in ("a", "b")]
        parts = [rows[f"{name}.{k}"] for k in ("a", "b", "group")]
        want = info_nce(*parts, scalars["logit_scale"], "mask", *more)
        assert found[f"head/{name}"][0].item() == pytest.approx(want[0].item(), rel=1e-6)
        assert found[f"head/{name}"][0] > before[f"head/{name}"][0]
        assert found[f"head/{name}"][1] == before[f"head/{name}"][1]


def test_a_negative_with_both_sides_is_no_pair(tokenizer) -> None:
    """Neither for the contrastive loss nor for the matching one, whose own negatives it isn't."""
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "retrieval", "pairs": [["image", "text"]], "matching": {}}
    torch.manual_seed(0)
    task = mmfm.build(settings).eval()
    plain = task.prepare(tiny.make_batch(0))
    batch = with_negatives(tiny.make_batch(0), text_of=[0, 1], image_of=[0, 1])
    image = batch["rows"]["image"]
    batch["rows"]["image"] = torch.where(image >= tiny.GLOBAL_BATCH + 2, image - 2, image)
    batch = task.prepare(batch)
    want, got = task.counts(plain), task.counts(batch)
    assert {n: c.item() for n, c in got.items()} == {n: c.item() for n, c in want.items()}
    with torch.no_grad():
        before, after = task(plain).losses, task(batch).losses
    assert after["head/image_text"][1] == before["head/image_text"][1]
    for part in (0, 1):
        assert after["matching/image_text"][part].item() == pytest.approx(
            before["matching/image_text"][part].item(), rel=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_sample": 0}, "per_sample = 0 must be at least 1"),
        ({"skip": -1}, "skip = -1 must be at least 0"),
        ({"every": 0}, "every = 0 must be at least 1"),
        ({"per_sample": 3, "among": 2}, "among = 2 must be at least per_sample = 3"),
    ],
)
def test_wrong_settings_of_hard_negatives(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, {"hard_negatives": settings})


def test_refusals(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "retrieval", "pairs": [["image", "smell"]]}
    with pytest.raises(ConfigError, match=r"^head: pairs: 'smell' names 'smell'"):
        mmfm.build(settings)
