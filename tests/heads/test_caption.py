"""The caption head: the objective's loss, texts of every batch, what it takes over."""

from __future__ import annotations

import pytest
import torch

import mmfm
from mmfm.config import ConfigError
from mmfm.predictor import Predictor
from tests import tiny

SMALL = {"sources": ["image", "audio"], "width": 16, "layers": 1, "heads": 2}


def build(tokenizer: str, section: str = "head", **settings):
    recipe = tiny.task_settings(tokenizer)
    del recipe["objectives"]
    caption = {"type": "caption", **SMALL, **settings}
    recipe |= {"head": caption} if section == "head" else {"objectives": {"head": caption}}
    torch.manual_seed(0)
    task = mmfm.build(recipe)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter.shape[-1], 16) ** -0.5)
    return task


def test_losses_counts_and_gradients_are_those_of_the_objective(tokenizer) -> None:
    batch, found = tiny.make_batch(0), []
    for section in ("head", "objectives"):
        task = build(tokenizer, section)
        prepared = task.prepare(batch)
        losses, counts = task(prepared).losses, task.counts(prepared)
        task.total(losses, counts).backward()
        values = {n: (t.item(), c.item(), counts[n].item()) for n, (t, c) in losses.items()}
        gradient = task.model.encoder("image").patch_embed.projection.weight.grad
        found.append((values, gradient, task.raw))
    assert list(found[0][0]) == ["head/caption_text"]
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2] == ("text",)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"beams": 3, "length_penalty": 0.0, "max_length": 6}])
def test_what_it_predicts_is_what_the_objective_writes(tokenizer, settings) -> None:
    task = build(tokenizer, **settings).eval()
    batch = tiny.make_batch(0)
    found = task(batch, predict=True).predictions
    caption = task.head.caption
    features = task.features(batch, caption.reads)
    longest = settings.get("max_length", 8)
    want = caption.generate(
        features, longest, settings.get("beams", 1), settings.get("length_penalty", 1.0)
    )
    assert torch.equal(found["rows"], want.samples)
    assert found["ids"].shape == (len(want.samples), longest)
    length = want.ids.shape[1]
    assert torch.equal(found["ids"][:, :length], want.ids)
    assert (found["ids"][:, length:] == caption.end[0]).all()
    answers = task.head.answers(task.head.predict(found), batch)
    assert [a["text"] for a in answers] == [caption.text_of(r) for r in want.ids.tolist()]
    assert len({a["text"] for a in answers}) > 1


def test_a_batch_without_sources_has_no_texts(tokenizer) -> None:
    task = build(tokenizer).eval()
    batch = tiny.make_batch(0)
    for m in ("image", "audio"):
        del batch["rows"][m], batch[m]
    found = task(batch, predict=True).predictions
    assert found["rows"].shape == (0,)
    assert found["ids"].shape == (0, 8)


def test_texts_for_users(tokenizer) -> None:
    predictor = Predictor(build(tokenizer, beams=2))
    generator = torch.Generator().manual_seed(0)
    sounds = [torch.randn(200, generator=generator).numpy() for _ in range(2)]
    answers = predictor.predict(audio=[sounds[0], sounds[1]], batch_size=1)
    assert [set(answer) for answer in answers] == [{"text"}] * 2
    assert all(isinstance(answer["text"], str) for answer in answers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams = 0 must be at least 1"),
        ({"max_length": 1}, "head: max_length = 1 must be above 1 and at most 8"),
        ({"sources": ["text"]}, "which is to be written"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)
