"""Masked words: the loss against cross_entropy, the corruption against transformers' collator."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mmfm.config import ConfigError, from_dict
from mmfm.data.tokenizer import load_tokenizer
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Read
from tests import tiny


def build(tokenizer: str, fusion: bool = True, model: dict | None = None, **settings):
    task = tiny.task_settings(tokenizer)
    task["objectives"] = {"mlm": {"type": "masked_text", **settings}}
    task["model"].update(model or {})
    if not fusion:
        task["model"]["fusion"] = None
    torch.manual_seed(0)
    return PretrainTask.build(from_dict(PretrainTaskConfig, task)).eval()


def in_words(task, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of every word, by its embedding in the encoder."""
    objective, table = task.objectives["mlm"], task.model.encoder("text").embedding.weight
    return objective.transform(tokens) @ table.T + objective.words.bias


@pytest.mark.parametrize("fusion", [True, False])
def test_the_loss_is_cross_entropy_at_the_masked_words(tokenizer, fusion: bool) -> None:
    task = build(tokenizer, fusion, mask_ratio=0.3)
    batch = task.prepare(tiny.make_batch(0))
    objective, masked = task.objectives["mlm"], batch["masks"]["text"]
    found = task.features(batch, objective.reads)[objective.reads[0]]
    tokens = (found.fused if fusion else found.tokens)["text"]
    logits_BLV = in_words(task, tokens)
    labels = batch["text"].masked_fill(~masked, -100)
    want = F.cross_entropy(logits_BLV.flatten(0, 1), labels.flatten())
    total, count = task(batch).losses["mlm/masked_text"]
    assert count.item() == masked.sum().item() > 0
    assert (total / count).item() == pytest.approx(want.item(), rel=1e-5)
    assert logits_BLV.shape[-1] == load_tokenizer(tokenizer).vocab_size
    # Only what is masked is predicted, and what is predicted was hidden from the encoder.
    assert not (masked & ~batch["text_mask"]).any()


def test_words_are_predicted_as_by_berts_head(tokenizer) -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    task = build(tokenizer)
    objective, encoder = task.objectives["mlm"], task.model.encoder("text")
    torch.nn.init.normal_(objective.words.bias)
    width, table = encoder.width, encoder.word_embedding()
    head = BertLMPredictionHead(
        BertConfig(hidden_size=width, vocab_size=table.num_embeddings, layer_norm_eps=1e-5)
    )
    head.transform.dense.load_state_dict(objective.transform[0].state_dict())
    head.transform.LayerNorm.load_state_dict(objective.transform[2].state_dict())
    head.decoder.load_state_dict({"weight": table.weight, "bias": objective.words.bias})
    tokens = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(objective.logits(tokens), head(tokens), rtol=1e-6, atol=1e-6)


def test_the_words_are_the_encoders(tokenizer) -> None:
    """The table is kept once."""
    task = build(tokenizer)
    own = {name for name, _ in task.objectives["mlm"].named_parameters()}
    assert own == {"transform.0.weight", "transform.0.bias", "transform.2.weight",
                   "transform.2.bias", "words.bias"}  # fmt: skip


def table_gradient(task, *, looked_up: bool = True, predicted: bool = True) -> torch.Tensor:
    """Of the loss, through one use of the table or both."""
    task = copy.deepcopy(task)
    encoder, objective = task.model.encoder("text"), task.objectives["mlm"]
    table = encoder.word_embedding()
    constant = copy.deepcopy(table).requires_grad_(False)
    if not looked_up:
        encoder.embedding = constant
    if not predicted:
        objective.words._table = (constant,)
    task(task.prepare(tiny.make_batch(0))).losses["mlm/masked_text"][0].backward()
    return torch.zeros_like(table.weight) if table.weight.grad is None else table.weight.grad


def test_the_table_learns_from_both_of_its_uses(tokenizer) -> None:
    task = build(tokenizer, mask_ratio=0.5)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    first = table_gradient(task, predicted=False)
    second = table_gradient(task, looked_up=False)
    assert first.any()
    assert second.any()
    torch.testing.assert_close(table_gradient(task), first + second, rtol=1e-5, atol=1e-6)
    assert task.model.encoder("text").word_embedding().weight.grad is None  # copies have their own


def test_a_frozen_table_of_another_width_stays(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)["model"]["encoders"]
    settings["text"] |= {"width": 8, "frozen": True}
    task = build(tokenizer, model={"encoders": settings}, mask_ratio=0.5)
    objective = task.objectives["mlm"]
    assert objective.words.in_features == 8 != task.model.fusion.width
    task(task.prepare(tiny.make_batch(0))).losses["mlm/masked_text"][0].backward()
    assert task.model.encoder("text").word_embedding().weight.grad is None
    assert objective.transform[0].weight.grad.any()
    assert objective.words.bias.grad.any()


def test_what_the_fusion_sees(tokenizer) -> None:
    everything = Read("masked", ("audio", "image", "text"), fused=True)
    assert build(tokenizer).objectives["mlm"].reads == (everything,)
    own = build(tokenizer, context=[]).objectives["mlm"].reads
    assert own == (Read("masked", ("text",), fused=True),)
    assert build(tokenizer, context=["image"]).objectives["mlm"].reads == (
        Read("masked", ("image", "text"), fused=True),
    )
    for context in (None, [], ["text"]):
        alone = build(tokenizer, fusion=False, context=context).objectives["mlm"].reads
        assert alone == (Read("masked", ("text",)),)


def test_the_loss_feels_the_context_and_nothing_else(tokenizer) -> None:
    def loss(context: list[str] | None, changed: str = "") -> float:
        task = build(tokenizer, context=context)
        for parameter in task.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        batch = tiny.make_batch(0)
        if changed:
            batch[changed] = batch[changed] + 1
        return task(task.prepare(batch)).losses["mlm/masked_text"][0].item()

    for context, feels in ((["image"], {"image"}), ([], set()), (None, {"image", "audio"})):
        plain = loss(context)
        assert loss(context) == plain
        for modality in ("image", "audio"):
            assert (loss(context, modality) != plain) == (modality in feels), (context, modality)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.0}, r"objectives\.mlm: mask_ratio = 0\.0 must be above 0 and below 1"),
        ({"mask_ratio": 1.0}, r"mask_ratio = 1\.0"),
        ({"modality": "speech"}, r"objectives\.mlm: modality 'speech': the model has only image"),
        ({"modality": "image"}, r"modality 'image' has no words to predict"),
        ({"context": ["video"]}, r"context names \['video'\], the model has image, text, audio"),
        ({"fusion": False, "context": ["image"]}, r"context = \['image'\] needs model\.fusion"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


def shares(before, after, masked, mask_id) -> tuple[float, float, float]:
    """Of the masked words: those replaced by the mask, by another word, and kept."""
    old, new = before[masked], after[masked]
    hidden, kept = new == mask_id, new == old
    return tuple(x.double().mean().item() for x in (hidden, ~hidden & ~kept, kept))


def test_corruption_has_the_proportions_of_transformers_collator(tokenizer) -> None:
    """80 % mask, 10 % a random word, 10 % as it was, to five standard deviations of both draws."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    encoder = build(tokenizer).model.encoder("text")
    own = encoder.tokenizer
    n, length = 4000, 8
    words = torch.randint(10, 250, (n, length), generator=torch.Generator().manual_seed(0))
    masked = torch.ones(n, length, dtype=torch.bool)
    masked[:, 3] = False
    after = encoder.mask_inputs(words, masked, torch.arange(n))
    assert torch.equal(after[~masked], words[~masked])
    got = shares(words, after, masked, own.mask_id)

    hf = PreTrainedTokenizerFast(tokenizer_file=f"{tokenizer}/tokenizer.json")
    hf.mask_token = hf.convert_ids_to_tokens(own.mask_id)
    hf.pad_token = hf.convert_ids_to_tokens(own.pad_id)
    collator = DataCollatorForLanguageModeling(hf, mlm_probability=0.999)
    torch.manual_seed(0)
    there = collator.torch_mask_tokens(words.clone(), torch.zeros_like(words))
    want = shares(words, there[0], there[1] != -100, own.mask_id)
    samples = int(masked.sum())
    for one, other, about in zip(got, want, (0.8, 0.1, 0.1), strict=True):
        assert abs(one - about) < 5 * (about * (1 - about) / samples) ** 0.5 + 0.001
        assert abs(one - other) < 7 * (about * (1 - about) / samples) ** 0.5 + 0.001


def test_what_becomes_of_a_word_does_not_depend_on_how_it_was_chosen(tokenizer) -> None:
    """The proportions hold among the words that the task's own masks choose, few or many."""
    n = 6000
    batch = {
        "text": torch.randint(10, 250, (n, 8), generator=torch.Generator().manual_seed(0)),
        "mask_seed": torch.arange(n),
        "rows": {"text": torch.arange(n)},
    }
    for ratio in (0.15, 0.5):
        task = build(tokenizer, mask_ratio=ratio)
        encoder, masked = task.model.encoder("text"), task.prepare(batch)["masks"]["text"]
        after = encoder.mask_inputs(batch["text"], masked, batch["mask_seed"])
        got = shares(batch["text"], after, masked, encoder.tokenizer.mask_id)
        samples = int(masked.sum())
        for one, about in zip(got, (0.8, 0.1, 0.1), strict=True):
            assert abs(one - about) < 5 * (about * (1 - about) / samples) ** 0.5 + 0.001


def test_random_words_are_any_word_but_special_ones(tokenizer) -> None:
    encoder = build(tokenizer).model.encoder("text")
    own = encoder.tokenizer
    words = torch.full((6000, 8), 20)
    after = encoder.mask_inputs(words, torch.ones(6000, 8, dtype=torch.bool), torch.arange(6000))
    drawn = after[(after != own.mask_id) & (after != 20)]
    assert not set(drawn.tolist()) & set(own.special_ids)
    seen = torch.bincount(drawn, minlength=own.vocab_size)
    regular = [i for i in range(own.vocab_size) if i not in {*own.special_ids, 20}]
    assert seen[regular].min() > 0
    assert seen[regular].max() < 4 * seen[regular].float().mean()


def test_special_tokens_and_padding_are_never_masked(tokenizer) -> None:
    task = build(tokenizer, mask_ratio=0.9)
    special = task.model.encoder("text").tokenizer.special_ids
    batch = tiny.make_batch(0)
    batch["text"][:, 0] = special[0]
    masked = task.prepare(batch)["masks"]["text"]
    assert not masked[:, 0].any()
    assert not (masked & ~batch["text_mask"]).any()


@pytest.mark.parametrize("fusion", [True, False])
def test_the_reconstruction_is_the_likeliest_word(tokenizer, fusion: bool) -> None:
    task = build(tokenizer, fusion, mask_ratio=0.4)
    batch = task.prepare(tiny.make_batch(0))
    objective = task.objectives["mlm"]
    features = task.features(batch, objective.reads)
    made = objective.reconstruct(features)
    assert torch.equal(made.masked, batch["masks"]["text"])
    assert torch.equal(made.target, batch["text"])
    found = features[objective.reads[0]]
    tokens = (found.fused if fusion else found.tokens)["text"]
    likelihood = in_words(task, tokens).log_softmax(-1)
    best = likelihood.max(-1).values
    picked = likelihood.gather(-1, made.predicted[..., None])[..., 0]
    assert torch.equal(picked, best)
    without = task.prepare(tiny.make_batch(0, leave_out="text"))
    with pytest.raises(ValueError, match="no sample has 'text'"):
        objective.reconstruct(task.features(without, objective.reads))
