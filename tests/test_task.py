"""Tasks: masks and dropout from seeds, encoders run once, the gradients of a split step."""

from __future__ import annotations

import importlib
import sys
from collections import Counter

import pytest
import torch
from torch import Tensor

from mmfm.config import ConfigError, from_dict
from mmfm.objectives.contrastive import info_nce
from mmfm.task import (
    FinetuneTask,
    FinetuneTaskConfig,
    PretrainTask,
    PretrainTaskConfig,
    in_masked_view,
)
from mmfm.types import Read, to_device
from tests import tiny

MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("task") / "tokenizer")


@pytest.fixture
def task(tokenizer) -> PretrainTask:
    return tiny.make_task(tokenizer)


def without(batch, modality):
    kept = {k: v for k, v in batch.items() if k not in (modality, f"{modality}_mask")}
    kept["rows"] = {m: rows for m, rows in batch["rows"].items() if m != modality}
    return kept


# ------------------------------------------------------------------------------ masks


def test_a_samples_masks_do_not_depend_on_its_batch(task) -> None:
    batch = tiny.make_batch(0)
    whole = task.prepare(batch)
    samples = torch.tensor([1, 6, 7, 12])
    part = task.prepare(tiny.take_samples(batch, samples))
    for m in MODALITIES:
        places = {s: i for i, s in enumerate(batch["rows"][m].tolist())}
        chosen = [places[s] for s in samples.tolist() if s in places]
        assert torch.equal(part["masks"][m], whole["masks"][m][chosen])
        assert whole["masks"][m].any()
    alone = task.prepare(without(batch, "image"))["masks"]
    assert set(alone) == {"text", "audio"}
    for m in alone:
        assert torch.equal(alone[m], whole["masks"][m])


def test_masks_follow_the_mask_seed(task) -> None:
    batch = tiny.make_batch(0)
    first, again = (task.prepare(batch)["masks"] for _ in range(2))
    other = task.prepare({**batch, "mask_seed": batch["mask_seed"] + 1})["masks"]
    for m in MODALITIES:
        assert torch.equal(first[m], again[m])
        assert not torch.equal(first[m], other[m])
    # One seed for all samples: equal masks where equal positions may be masked.
    same = task.prepare({**batch, "mask_seed": torch.full((tiny.GLOBAL_BATCH,), 5)})["masks"]
    assert (same["image"] == same["image"][0]).all()


def test_each_modality_has_masks_of_its_own(tokenizer) -> None:
    """Two modalities with equal grids are not hidden at the same places."""
    settings = tiny.task_settings(tokenizer)
    image = {**settings["model"]["encoders"]["image"], "image_size": 32}
    settings["model"]["encoders"] = {"image": image, "depth": dict(image)}
    settings["model"]["fusion"] = None
    masked = {"type": "masked_image", "mask_ratio": 0.5, "decoder_width": 16, "decoder_heads": 2}
    settings["objectives"] = {m: {**masked, "modality": m} for m in ("image", "depth")}
    task = PretrainTask.build(from_dict(PretrainTaskConfig, settings))
    batch = {
        "rows": {m: torch.arange(50) for m in ("image", "depth")},
        "image": torch.zeros(50, 3, 32, 32),
        "depth": torch.zeros(50, 3, 32, 32),
        "mask_seed": torch.arange(50),
    }
    masks = task.prepare(batch)["masks"]
    both = (masks["image"] & masks["depth"]).double().mean().item()
    assert masks["image"].double().mean().item() == 0.5
    assert both == pytest.approx(0.25, abs=0.02)


def test_prepare_leaves_the_given_batch_alone(task) -> None:
    batch = tiny.make_batch(0)
    keys = set(batch)
    task.prepare(batch)
    assert set(batch) == keys


def test_samples_that_do_not_enter_the_masked_view_cost_it_nothing(task) -> None:
    """Its rows, masks, counts and losses are those of a batch that lacks the other samples."""
    batch = tiny.make_batch(0)
    enters = tiny.in_slots((0, 3))
    some = task.prepare({**batch, "masked_view": enters})
    alone = task.prepare(tiny.take_samples(batch, enters.nonzero()[:, 0]))
    for m in MODALITIES:
        assert torch.equal(some["masks"][m], alone["masks"][m])
    read = Read("masked", ("audio", "image", "text"), fused=True)
    seen: dict[str, int] = {}
    for m in MODALITIES:
        task.model.encoder(m).register_forward_hook(
            lambda _, inputs, __, m=m: seen.update({m: len(inputs[0])})
        )
    found, want = (task.features(b, [read])[read] for b in (some, alone))
    assert seen == {"image": 8, "text": 16, "audio": 16}
    places = enters.nonzero()[:, 0]
    for m in (*MODALITIES, "fused"):
        assert torch.equal(found.rows[m], places[want.rows[m]])
        assert torch.equal(found.embedding[m], want.embedding[m])
    losses, theirs = task(some).losses, task(alone).losses
    counts, whole = task.counts(some), task.counts(task.prepare(batch))
    for m in MODALITIES:
        name = f"masked_{m}/masked_{m}"
        assert torch.equal(losses[name][0], theirs[name][0])
        assert losses[name][1].item() == counts[name].item() < whole[name].item()
    everything = task(task.prepare(batch)).losses
    assert losses["contrastive/image_text"] == everything["contrastive/image_text"]


def test_a_batch_without_any_masked_sample_has_no_masked_loss(task) -> None:
    none = torch.zeros(tiny.GLOBAL_BATCH, dtype=torch.bool)
    batch = task.prepare({**tiny.make_batch(0), "masked_view": none})
    runs: Counter[str] = Counter()
    for m in MODALITIES:
        task.model.encoder(m).register_forward_hook(lambda *_, m=m: runs.update([m]))
    losses = task(batch).losses
    assert runs == {"image": 1, "text": 1, "audio": 1}
    for m in MODALITIES:
        assert [x.item() for x in losses[f"masked_{m}/masked_{m}"]] == [0, 0]
        assert task.counts(batch)[f"masked_{m}/masked_{m}"].item() == 0


def test_cached_outputs_of_samples_outside_the_masked_view_are_left_out() -> None:
    batch = {
        "rows": {"image": torch.tensor([0, 2, 3]), "text": torch.tensor([1])},
        "image_tokens": torch.arange(3.0)[:, None, None],
        "image_tokens_mask": torch.ones(3, 1, dtype=torch.bool),
        "image_pooled": torch.arange(3.0)[:, None],
        "text": torch.zeros(1, 2),
        "text_mask": torch.ones(1, 2, dtype=torch.bool),
        "masked_view": torch.tensor([True, False, False, True]),
    }
    part = in_masked_view(batch)
    assert part["rows"]["image"].tolist() == [0, 3]
    assert part["image_tokens"].flatten().tolist() == part["image_pooled"].flatten().tolist()
    assert part["image_pooled"].flatten().tolist() == [0, 2]
    assert part["image_tokens_mask"].shape == (2, 1)
    assert not {"text", "text_mask"} & set(part)
    assert set(part["rows"]) == {"image"}
    assert (
        in_masked_view({**batch, "masked_view": torch.ones(4, dtype=torch.bool)})["rows"]
        is (batch["rows"])
    )


# ------------------------------------------------------------------------------ reads


def test_each_encoder_runs_once_a_view_and_fusion_once_a_read(task) -> None:
    runs: Counter[str] = Counter()
    for m in MODALITIES:
        task.model.encoder(m).register_forward_hook(lambda *_, m=m: runs.update([m]))
    task.model.fusion.register_forward_hook(lambda *_: runs.update(["fusion"]))
    task(task.prepare(tiny.make_batch(0)))
    # Clean: audio+image is fused for the contrastive pair; masked: all three once for three losses.
    assert runs == {"image": 2, "text": 2, "audio": 2, "fusion": 2}
    runs.clear()
    task(task.prepare(tiny.make_batch(0)), rows_only=True)
    assert runs == {"image": 1, "text": 1, "audio": 1, "fusion": 1}


def test_the_clean_view_is_clean(task) -> None:
    batch = task.prepare(tiny.make_batch(0))
    read = Read("clean", ("image", "text"))
    found = task(batch, reads=[read]).features[read]
    want = task.model.encode(batch, ["image", "text"])
    for m in ("image", "text"):
        assert torch.equal(found.embedding[m], want.embedding[m])
    assert not found.masked


def test_features_need_no_preparation(task) -> None:
    read = Read("clean", ("audio", "image"), fused=True)
    batch = {k: v for k, v in tiny.make_batch(0).items() if k not in ("group", "mask_seed")}
    assert task(batch, reads=[read]).features[read].fused_pooled.shape == (tiny.GLOBAL_BATCH, 16)


# ------------------------------------------------------------------------------ dropout


@pytest.fixture
def noisy(tokenizer) -> PretrainTask:
    return tiny.make_task(tokenizer, dropout=0.3).train()


def rows(task: PretrainTask, batch, seed: int) -> dict[str, Tensor]:
    output = task(task.prepare({**batch, "dropout_seed": seed}), rows_only=True)
    return output.rows["contrastive"]


def test_dropout_is_a_function_of_its_seed(noisy) -> None:
    batch = tiny.make_batch(0)
    torch.manual_seed(1)
    first = rows(noisy, batch, 5)
    torch.manual_seed(2)
    again, other = rows(noisy, batch, 5), rows(noisy, batch, 6)
    for key, value in first.items():
        assert torch.equal(value, again[key])
        if key.endswith((".a", ".b")):
            assert not torch.equal(value, other[key])
    noisy.eval()
    assert torch.equal(rows(noisy, batch, 5)["image_text.a"], rows(noisy, batch, 6)["image_text.a"])


def test_both_phases_of_grad_cache_see_the_same_dropout(noisy) -> None:
    """Phase 1 runs the clean view only, phase 3 all objectives: its rows must equal those."""
    batch = noisy.prepare({**tiny.make_batch(0), "dropout_seed": 9})
    with torch.no_grad():
        first = noisy(batch, rows_only=True).rows["contrastive"]
    # A gradient of one for a single number makes the surrogate that number of phase 3.
    for key, value in first.items():
        if not value.is_floating_point():
            continue
        for place in ((0, 0), (3, 7)):
            gradient = torch.zeros_like(value)
            gradient[place] = 1.0
            output = noisy(batch, gradients={"contrastive": {key: gradient}})
            assert output.surrogate.item() == value[place].item()
    assert "masked_text/masked_text" in output.losses


def test_an_encoders_dropout_is_independent_of_other_modalities(noisy) -> None:
    batch = {**tiny.make_batch(0), "dropout_seed": 3}
    whole = rows(noisy, batch, 3)
    alone = rows(noisy, without(batch, "image"), 3)
    assert torch.equal(alone["audio_text.a"], whole["audio_text.a"])
    assert torch.equal(alone["audio_text.b"], whole["audio_text.b"])
    read = Read("clean", ("text",))
    text = noisy(batch, reads=[read]).features[read].pooled["text"]
    both = Read("clean", ("image", "text"))
    assert torch.equal(text, noisy(batch, reads=[both]).features[both].pooled["text"])


def test_views_and_modalities_have_dropout_of_their_own(noisy) -> None:
    """The masked view without any mask is the same input under other dropout."""
    batch = {**tiny.make_batch(0), "dropout_seed": 3, "masks": {}}
    clean, masked = Read("clean", ("image",)), Read("masked", ("image",))

    def pooled() -> list[Tensor]:
        found = noisy(batch, reads=[clean, masked]).features
        return [found[clean].pooled["image"], found[masked].pooled["image"]]

    one, other = pooled()
    assert not torch.equal(one, other)
    noisy.eval()
    one, other = pooled()
    assert torch.equal(one, other)


def test_the_fusions_dropout_is_independent_of_what_else_is_read(noisy) -> None:
    batch = {**tiny.make_batch(0), "dropout_seed": 3}
    fused, other = Read("clean", ("image", "text"), fused=True), Read("clean", ("audio",))
    alone = noisy(batch, reads=[fused]).features[fused].fused_pooled
    beside = noisy(batch, reads=[other, fused]).features[fused].fused_pooled
    assert torch.equal(alone, beside)
    batch["dropout_seed"] = 4
    assert not torch.equal(alone, noisy(batch, reads=[fused]).features[fused].fused_pooled)


def test_equal_encoders_of_two_modalities_drop_other_units(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer, dropout=0.3)
    image = settings["model"]["encoders"]["image"]
    settings["model"] |= {"encoders": {"image": image, "depth": dict(image)}, "fusion": None}
    settings["objectives"] = {"c": {"type": "contrastive", "pairs": [["image", "depth"]]}}
    task = PretrainTask.build(from_dict(PretrainTaskConfig, settings)).train()
    encoders = task.model.encoders
    encoders["depth"].load_state_dict(encoders["image"].state_dict())
    batch = {k: tiny.make_batch(0)[k] for k in ("image", "sample_id")}
    batch |= {"depth": batch["image"], "dropout_seed": 4}
    batch["rows"] = {m: torch.arange(len(batch["image"])) for m in ("image", "depth")}
    read = Read("clean", ("image", "depth"))

    def pooled() -> list[Tensor]:
        found = task(batch, reads=[read]).features[read].pooled
        return [found["image"], found["depth"]]

    one, other = pooled()
    assert not torch.equal(one, other)
    task.eval()
    one, other = pooled()
    assert torch.equal(one, other)


def test_no_seed_no_reseeding(noisy) -> None:
    """In a loop of one's own without `dropout_seed`, torch's own generator goes on."""
    batch = noisy.prepare(tiny.make_batch(0))
    torch.manual_seed(0)
    first, second = (noisy(batch, rows_only=True).rows["contrastive"] for _ in range(2))
    assert not torch.equal(first["image_text.a"], second["image_text.a"])


# ------------------------------------------------------------------------------ a split step


def test_a_split_step_has_the_gradients_of_the_whole(task) -> None:
    """rows ▶ cached_losses ▶ surrogate over four micro-batches, against one forward of all."""
    batch = task.prepare(tiny.make_batch(0))
    counts = task.counts(batch)
    whole = task(batch)
    loss = task.total(whole.losses, counts)
    loss.backward()
    want = {name: p.grad.clone() for name, p in task.named_parameters()}
    task.zero_grad()

    parts = [task.prepare(b) for b in tiny.micro_batches(tiny.make_batch(0), 0, 1, 4)]
    with torch.no_grad():
        outputs = [task(part, rows_only=True) for part in parts]
    assert not outputs[0].losses
    collected = {
        key: torch.cat([o.rows["contrastive"][key] for o in outputs])
        for key in outputs[0].rows["contrastive"]
    }
    leaves = {k: v.clone().requires_grad_() for k, v in collected.items() if v.is_floating_point()}
    scale = outputs[0].scalars["contrastive"]["logit_scale"].clone().requires_grad_()
    losses = task.cached_losses(
        {"contrastive": {**collected, **leaves}}, {"contrastive": {"logit_scale": scale}}
    )
    assert {n for n in whole.losses if n.startswith("contrastive/")} == set(losses)
    for name, (total, count) in losses.items():
        assert total.item() == pytest.approx(whole.losses[name][0].item(), rel=1e-5)
        assert count.item() == whole.losses[name][1].item()
    task.total(losses, counts).backward()
    seen = 0
    starts = dict.fromkeys(leaves, 0)
    for i, (part, output) in enumerate(zip(parts, outputs, strict=True)):
        gradients = {}
        for key, leaf in leaves.items():
            n = len(output.rows["contrastive"][key])
            gradients[key] = leaf.grad[starts[key] : starts[key] + n]
            starts[key] += n
        if i == 0:
            gradients["logit_scale"] = scale.grad
        third = task(part, gradients={"contrastive": gradients})
        assert not [n for n in third.losses if n.startswith("contrastive/")]
        seen += sum(c.item() for _, c in third.losses.values())
        (task.total(third.losses, counts) + third.surrogate).backward()
    assert seen == sum(c.item() for n, (_, c) in whole.losses.items() if "masked" in n)
    for name, parameter in task.named_parameters():
        difference = (parameter.grad - want[name]).norm() / want[name].norm()
        assert difference < 1e-5, name


def test_the_surrogate_equals_grad_cache(task, monkeypatch) -> None:
    """Luyu Gao's GradCache on the same two encoders and loss: equal gradients of every weight."""
    package = importlib.import_module("gradcache")
    # Its wheel is installed under another name than the one by which it imports itself.
    monkeypatch.setitem(sys.modules, "grad_cache", package)
    contexts = importlib.import_module("gradcache.context_managers")
    monkeypatch.setitem(sys.modules, "grad_cache.context_managers", contexts)
    grad_cache = importlib.import_module("gradcache.grad_cache").GradCache

    batch = tiny.make_batch(0)
    samples = torch.isin(batch["rows"]["text"], batch["rows"]["image"]).nonzero()[:, 0]
    text, mask = batch["text"][samples], batch["text_mask"][samples]
    image, model = batch["image"], task.model
    scale = task.objectives["contrastive"].logit_scale

    class Side(torch.nn.Module):
        def __init__(self, modality: str) -> None:
            super().__init__()
            self.modality = modality

        def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
            _, pooled = model.encoder(self.modality)(inputs, valid)
            embedding = model.projections[self.modality](pooled)
            return torch.nn.functional.normalize(embedding, dim=-1)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        total, count = info_nce(a, b, torch.arange(len(a)), scale())
        return total / count

    cached = grad_cache([Side("image"), Side("text")], chunk_sizes=4, loss_fn=loss)
    inputs = {"inputs": text, "valid": mask}
    theirs = cached.cache_step({"inputs": image}, inputs).item()
    want = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()

    whole = {
        "rows": {m: torch.arange(len(image)) for m in ("image", "text")},
        "group": torch.arange(len(image)),
        "sample_id": [str(i) for i in range(len(image))],
        "image": image, "text": text, "text_mask": mask,
        "mask_seed": torch.arange(len(image)), "sample_hash": torch.arange(len(image)),
    }  # fmt: skip
    parts = [
        task.prepare(tiny.take_samples(whole, part)) for part in torch.arange(len(image)).split(4)
    ]
    with torch.no_grad():
        outputs = [task(part, rows_only=True).rows["contrastive"] for part in parts]
    a, b = (torch.cat([o[f"image_text.{side}"] for o in outputs]).requires_grad_() for side in "ab")
    ours = loss(a, b)
    ours.backward()
    assert ours.item() == pytest.approx(theirs, rel=1e-6)
    for i, part in enumerate(parts):
        some = slice(4 * i, 4 * i + 4)
        gradients = {"image_text.a": a.grad[some], "image_text.b": b.grad[some]}
        task(part, gradients={"contrastive": gradients}).surrogate.backward()
    assert {n for n, p in task.named_parameters() if p.grad is not None} >= set(want)
    for name, gradient in want.items():
        difference = task.get_parameter(name).grad - gradient
        assert difference.norm() < 1e-5 * gradient.norm().clamp(min=1e-3), name


# ------------------------------------------------------------------------------ building


def test_refusals(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    with pytest.raises(ConfigError, match="objectives: name at least one"):
        PretrainTask.build(from_dict(PretrainTaskConfig, {**settings, "objectives": {}}))
    del settings["objectives"]
    head = {"type": "classification", "label": "x", "modalities": ["smell"]}
    config = from_dict(FinetuneTaskConfig, {**settings, "head": head})
    with pytest.raises(ConfigError, match=r"^head: head\.modalities names \['smell'\]"):
        FinetuneTask.build(config, ["a", "b"])


def test_to_device_reaches_nested_tensors() -> None:
    batch = tiny.make_batch(0)
    moved = to_device(batch, torch.device("meta"))
    assert moved["rows"]["image"].device.type == "meta"
    assert moved["image"].device.type == "meta"
    assert moved["sample_id"] == batch["sample_id"]
    assert batch["image"].device.type == "cpu"
