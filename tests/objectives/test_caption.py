"""Captions: the loss against plain cross-entropy, what a word may see, and texts written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm.config import ConfigError, from_dict
from mmfm.data.tokenizer import load_tokenizer
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Batch, Read
from tests import tiny

SMALL = {"width": 16, "layers": 2, "heads": 2}


def build(tokenizer: str, objectives: dict | None = None, encoders: dict | None = None, **settings):
    task = tiny.task_settings(tokenizer)
    for modality, changes in (encoders or {}).items():
        task["model"]["encoders"][modality] |= changes
    caption = {"type": "caption", "sources": ["image", "audio"], **SMALL, **settings}
    task["objectives"] = {**(objectives or {}), "caption": caption}
    torch.manual_seed(0)
    task = PretrainTask.build(from_dict(PretrainTaskConfig, task))
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter.shape[-1], 16) ** -0.5)
    return task


def reference(task: PretrainTask, batch: Batch, name: str = "caption") -> dict[str, Tensor]:
    """The mean loss of a global batch: text by text without padding, from the tokens of what the
    sample has.
    """
    objective, model, losses = task.objectives[name], task.model, []
    present = [m for m in objective.sources if m in batch]
    if "text" not in batch or not present:
        return {}
    clean = model.encode(batch, present)
    for row, sample in enumerate(batch["rows"]["text"].tolist()):
        memory = []
        for m in present:
            for k in (clean.rows[m] == sample).nonzero()[:, 0].tolist():
                memory.append(objective.projections[m](clean.tokens[m][k][clean.valid[m][k]]))
        if memory:
            ids = batch["text"][row][batch["text_mask"][row]]
            logits = word_logits(objective, model, ids[:-1], torch.cat(memory))
            losses.append(F.cross_entropy(logits, ids[1:], reduction="none"))
    return {objective.term: torch.cat(losses).mean()} if losses else {}


def word_logits(objective, model, ids_L: Tensor, memory_MW: Tensor) -> Tensor:
    """[L,V] after each of the ids of one text."""
    table = model.encoder("text").embedding.weight
    x = objective.embed(table[ids_L]) + objective.position.weight[: len(ids_L)]
    memory = objective.memory_norm(memory_MW)
    states = objective.decoder(x[None], memory[None])[0]
    return objective.transform(states) @ table.T + objective.words.bias


def doubled(batch: Batch) -> Batch:
    return {k: v.double() if k in ("image", "audio") else v for k, v in batch.items()}


@pytest.mark.parametrize("gone", [None, "audio", "image", "text"])
def test_equals_cross_entropy_text_by_text(tokenizer, gone: str | None) -> None:
    """Losses and gradients, in double precision up to the logits."""
    task = build(tokenizer).double()
    batch = doubled(tiny.make_batch(1, gone))
    want = reference(task, batch)
    prepared = task.prepare(batch)
    got, counts = task(prepared).losses, task.counts(prepared)
    total, count = got["caption/caption_text"]
    assert counts["caption/caption_text"].item() == count.item()
    assert counts["caption/caption_text"].dtype == torch.float64
    if gone == "text":
        assert (want, total.item(), count.item()) == ({}, 0.0, 0.0)
        return
    (want,) = want.values()
    assert (total / count).item() == pytest.approx(want.item(), rel=1e-6)
    gradients = []
    for loss in (want, task.total(got, counts)):
        task.zero_grad()
        loss.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
        )
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        off = (gradients[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert off < 1e-6, name


def test_equals_the_captioning_loss_of_coca(tokenizer) -> None:
    from open_clip.loss import CoCaLoss

    task = build(tokenizer, sources=["image"])
    objective, batch = task.objectives["caption"], tiny.make_batch(0)
    chosen = torch.isin(batch["rows"]["text"], batch["rows"]["image"])
    ids, valid = batch["text"][chosen], batch["text_mask"][chosen]
    clean = task.model.encode(batch, ["image"])
    memory = objective.projections["image"](clean.tokens["image"])
    logits = torch.stack(
        [
            word_logits(objective, task.model, row[:-1], m)
            for row, m in zip(ids, memory, strict=True)
        ]
    )
    labels = ids[:, 1:].masked_fill(~valid[:, 1:], 0)
    _, want = CoCaLoss(1.0, 0.0, pad_id=0)(None, None, logits, labels, None)
    total, count = task(task.prepare(batch)).losses["caption/caption_text"]
    assert (total / count).item() == pytest.approx(want.item(), rel=1e-6)


def test_parts_of_a_batch_make_the_same_sum(tokenizer) -> None:
    """Whatever the padding, and which modalities the others have."""
    task = build(tokenizer).double()
    batch = doubled(tiny.make_batch(0))
    total, count = task(task.prepare(batch)).losses["caption/caption_text"]
    for size in (1, 4, 8):
        parts = tiny.micro_batches(batch, 0, 1, size)
        if size == 1:  # without empty tensors
            parts = [tiny.take_samples(batch, torch.tensor([i])) for i in range(tiny.GLOBAL_BATCH)]
            parts = [without_empty(part) for part in parts]
        found = [task(task.prepare(part)).losses["caption/caption_text"] for part in parts]
        assert sum(t.item() for t, _ in found) == pytest.approx(total.item(), rel=1e-6)
        assert sum(c.item() for _, c in found) == count.item()


def without_empty(part: Batch) -> Batch:
    for m in [m for m, rows in part["rows"].items() if not len(rows)]:
        for key in (m, f"{m}_mask"):
            part.pop(key, None)
        del part["rows"][m]
    return part


def test_padding_is_neither_read_nor_predicted(tokenizer) -> None:
    task = build(tokenizer)
    batch = task.prepare(tiny.make_batch(0))
    before = task(batch).losses["caption/caption_text"]
    batch["text"] = batch["text"].masked_fill(~batch["text_mask"], 7)
    after = task(batch).losses["caption/caption_text"]
    assert before[0].item() == after[0].item()
    changed = batch["text"].clone()
    changed[batch["text_mask"]] = 9
    assert task({**batch, "text": changed}).losses["caption/caption_text"][0] != before[0]


def test_a_word_does_not_see_later_ones(tokenizer) -> None:
    task = build(tokenizer).eval()
    objective, batch = task.objectives["caption"], tiny.make_batch(0)
    found = task.features(batch, objective.reads)[objective.reads[0]]
    samples, ids, _ = objective._texts(batch)
    memory = objective._memory(found, samples)
    before = objective._logits(objective._states(ids[:, :7], None, memory))
    changed = ids.clone()
    changed[:, 4] = 20
    assert (changed[:, 4] != ids[:, 4]).all()
    after = objective._logits(objective._states(changed[:, :7], None, memory))
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert ((after - before)[:, 4:].abs().amax(-1) > 1e-3).all()


def test_what_is_written_is_not_read(tokenizer) -> None:
    task = build(tokenizer)
    objective = task.objectives["caption"]
    assert objective.reads == (Read("clean", ("audio", "image")),)
    ran = []
    for m in task.model.encoders:
        task.model.encoder(m).register_forward_hook(lambda *_, m=m: ran.append(m))
    task.model.fusion.register_forward_hook(lambda *_: ran.append("fusion"))
    task(task.prepare(tiny.make_batch(0)))
    assert ran == ["image", "audio"]


def test_only_the_named_sources_are_seen(tokenizer) -> None:
    for sources in (["image"], ["audio"], ["image", "audio"]):
        task = build(tokenizer, sources=sources)
        batch = task.prepare(tiny.make_batch(0))
        before, count = task(batch).losses["caption/caption_text"]
        rows = {s for m in sources for s in batch["rows"][m].tolist()}
        chosen = [i for i, s in enumerate(batch["rows"]["text"].tolist()) if s in rows]
        assert count.item() == batch["text_mask"][chosen][:, 1:].sum().item()
        for m in ("image", "audio"):
            after = task({**batch, m: batch[m] + 1}).losses["caption/caption_text"][0]
            assert (after != before) == (m in sources)


def test_it_asks_for_the_raw_text(tokenizer) -> None:
    objectives = {"masked_image": {**tiny.task_settings(tokenizer)["objectives"]["masked_image"]}}
    assert build(tokenizer, objectives).raw == ("image", "text")
    assert build(tokenizer).raw == ("text",)
    assert tiny.make_task(tokenizer).raw == ("text", "image", "audio")


def test_behind_cached_encoders(tokenizer) -> None:
    """The sources' tokens and the text's outputs come from the cache, the words from the batch."""
    still = {"frozen": True, "cache": True}
    task = build(tokenizer, encoders={"image": still, "text": still}, sources=["image"])
    batch = tiny.make_batch(0)
    want = task(task.prepare(batch)).losses["caption/caption_text"]
    clean = task.model.encode(batch, ["image", "text"])
    for m in ("image", "text"):
        batch |= {f"{m}_tokens": clean.tokens[m], f"{m}_pooled": clean.pooled[m]}
        batch[f"{m}_tokens_mask"] = clean.valid[m]
    del batch["image"]
    got = task(task.prepare(batch)).losses["caption/caption_text"]
    assert got[0].item() == want[0].item()
    got[0].backward()
    assert task.model.encoder("text").word_embedding().weight.grad is None
    assert task.objectives["caption"].embed.weight.grad.any()


def test_the_table_is_the_encoders(tokenizer) -> None:
    """Kept once; looked up and scored with."""
    task = build(tokenizer)
    objective, table = task.objectives["caption"], task.model.encoder("text").word_embedding()
    assert not [n for n, p in objective.named_parameters() if p.shape == table.weight.shape]
    task(task.prepare(tiny.make_batch(0))).losses["caption/caption_text"][0].backward()
    unused = sorted(set(range(table.num_embeddings)) - set(tiny.make_batch(0)["text"].flatten()
                                                           .tolist()))  # fmt: skip
    assert table.weight.grad[unused].any()  # a word that stands nowhere is scored all the same


def test_dropout_is_of_the_objective(tokenizer) -> None:
    """The same whatever runs before it, and drawn anew for each step."""
    others = tiny.task_settings(tokenizer)["objectives"]
    alone, beside = build(tokenizer, dropout=0.3), build(tokenizer, others, dropout=0.3)
    alone.load_state_dict({k: v for k, v in beside.state_dict().items() if k in alone.state_dict()})
    batch = {**tiny.make_batch(0), "dropout_seed": 3}

    def loss(task: PretrainTask, seed: int) -> float:
        prepared = task.train().prepare({**batch, "dropout_seed": seed})
        return task(prepared).losses["caption/caption_text"][0].item()

    assert loss(alone, 3) == loss(beside, 3) == loss(alone, 3)
    assert loss(alone, 3) != loss(alone, 4)


# ------------------------------------------------------------------------------ writing

TEXTS = ["a red dot tone", "a blue box tone", "a green bar", "a red bar", "a blue dot"]


@pytest.fixture(scope="module")
def trained(tokenizer) -> tuple[PretrainTask, Batch]:
    """Five pictures with their captions, learnt by heart; the last has a sound instead."""
    task = build(tokenizer, encoders={"text": {"max_length": 16}})
    words = load_tokenizer(tokenizer)
    ids = [words.encode(text, 16) for text in TEXTS]
    length = max(map(len, ids))
    generator = torch.Generator().manual_seed(0)
    n = len(TEXTS)
    batch: Batch = {
        "image": torch.randn(n - 1, 3, 8, 8, generator=generator),
        "audio": torch.randn(1, 256, generator=generator),
        "text": torch.tensor([row + [0] * (length - len(row)) for row in ids]),
        "text_mask": torch.tensor([[i < len(row) for i in range(length)] for row in ids]),
        "rows": {"image": torch.arange(n - 1), "audio": torch.tensor([n - 1])},
        "group": torch.arange(n),
        "mask_seed": torch.arange(n),
        "sample_id": [str(i) for i in range(n)],
    }
    batch["rows"]["text"] = torch.arange(n)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    prepared = task.prepare(batch)
    for _ in range(150):
        loss = task.total(task(prepared).losses, task.counts(prepared))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return task.eval(), batch


def test_texts_learnt_by_heart_are_written_again(trained, tokenizer) -> None:
    task, batch = trained
    words, objective = load_tokenizer(tokenizer), task.objectives["caption"]
    silent = {k: v for k, v in batch.items() if not k.startswith("text")}
    found = objective.generate(task.features(silent, objective.reads))
    assert found.samples.tolist() == [0, 1, 2, 3, 4]
    assert [words.decode(row) for row in found.ids.tolist()] == TEXTS
    longest = max(len(words.encode(text)) for text in TEXTS)
    assert found.ids.shape == (5, longest)  # it stops when all have ended
    for row, text in zip(found.ids.tolist(), TEXTS, strict=True):
        own = words.encode(text)
        assert row == own + [words.sep_id] * (longest - len(own))


def test_texts_are_cut_at_the_length_that_is_asked_for(trained) -> None:
    task, batch = trained
    objective = task.objectives["caption"]
    features = task.features(batch, objective.reads)
    whole = objective.generate(features).ids
    assert torch.equal(objective.generate(features, max_length=4).ids, whole[:, :4])
    for wrong in (0, 1, 17):
        with pytest.raises(
            ValueError, match=f"max_length = {wrong} must be above 1 and at most 16"
        ):
            objective.generate(features, max_length=wrong)


def test_only_what_is_there_is_described(trained) -> None:
    task, batch = trained
    objective = task.objectives["caption"]
    whole = objective.generate(task.features(batch, objective.reads)).ids
    some = tiny.take_samples(batch, torch.tensor([4, 1]))
    found = objective.generate(task.features(some, objective.reads))
    assert found.samples.tolist() == [0, 1]
    length = found.ids.shape[1]
    assert torch.equal(found.ids, whole[[4, 1]][:, :length])
    silent = {k: v for k, v in batch.items() if k not in ("image", "audio")}
    silent["rows"] = {"text": batch["rows"]["text"]}
    with pytest.raises(ValueError, match="no sample has any of audio, image"):
        objective.generate(task.features(silent, objective.reads))


def test_after_the_end_there_is_only_the_end(trained, monkeypatch) -> None:
    """Whatever would be likeliest there; and no more is written than the longest text takes."""
    task, batch = trained
    objective = task.objectives["caption"]
    (end,) = objective.end
    script = iter(torch.tensor([[5, 6, 7, 8, end], [9, 9, 9, end, 5], [end, 7, end, 5, 5]]))
    monkeypatch.setattr(
        objective, "_logits", lambda _: F.one_hot(next(script)[:, None], 300).float()
    )
    features = task.features(batch, objective.reads)
    begun = torch.full((5, 1), objective.begin[0])
    written = torch.tensor([[5, 9, end], [6, 9, 7], [7, 9, end], [8, end, end], [end, end, end]])
    found = objective.generate(features, max_length=4).ids
    assert torch.equal(found, torch.cat([begun, written], dim=1))
    script = iter(torch.tensor([[5, 5, 5, 5, 5], [end] * 5]))
    assert objective.generate(features).ids.shape == (5, 3)


def test_beams_find_what_is_likelier_than_greedy(tokenizer) -> None:
    """By the words' probabilities as the loss sees them; the texts of an untrained decoder."""
    task = build(tokenizer, encoders={"text": {"max_length": 8}}).eval()
    objective, batch = task.objectives["caption"], tiny.make_batch(0)
    features = task.features(batch, objective.reads)

    def likelihood(found) -> Tensor:
        """The mean log probability a word."""
        memory = objective._memory(features[objective.reads[0]], found.samples)
        logits = objective._logits(objective._states(found.ids[:, :-1], None, memory))
        words = found.ids[:, 1:]
        each = logits.log_softmax(-1).gather(2, words[:, :, None])[:, :, 0]
        ended = words == objective.end[0]
        counted = ended.cumsum(1) - ended.long() == 0
        return (each * counted).sum(1) / counted.sum(1)

    greedily = objective.generate(features)
    searched = objective.generate(features, beams=6)
    assert torch.equal(searched.samples, greedily.samples)
    gain = likelihood(searched) - likelihood(greedily)
    assert gain.mean() > 0.003
    assert (gain > -1e-5).float().mean() > 0.9  # a search may lose what is found word by word
    again = objective.generate(task.features(batch, objective.reads), beams=6)
    assert torch.equal(again.ids, searched.ids)


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, r"sources = \[\]: name at least one modality"),
        ({"sources": ["image", "text"]}, r"and not 'text', which is to be written"),
        ({"sources": ["smell"]}, r"objectives\.caption: the model has no encoder of 'smell'"),
        ({"modality": "image", "sources": ["text"]}, r"modality 'image' has no words to write"),
        ({"width": 15}, r"width = 15 must be a multiple of heads = 2"),
        ({"weight": -1.0}, "weight must be above 0"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


def test_a_tokenizer_without_an_end_is_refused(tokenizer, tmp_path) -> None:
    saved = json.loads((Path(tokenizer) / "tokenizer.json").read_text())
    for part in ("single", "pair"):
        template = saved["post_processor"][part]
        saved["post_processor"][part] = [p for p in template if "[SEP]" not in str(p)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="none that ends it"):
        build(str(tmp_path))
