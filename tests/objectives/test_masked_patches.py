"""Masked patches of pictures and sound: the loss against ViTMAE's, and what the decoder sees."""

from __future__ import annotations

import pytest
import torch

from mmfm.config import ConfigError, from_dict
from mmfm.layers.position import sincos_2d
from mmfm.objectives._masked_patches import normalise_patches
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Features, Read
from tests import tiny

DECODER = {"decoder_width": 16, "decoder_heads": 2}


def build(tokenizer: str, kind: str = "masked_image", model: dict | None = None, **settings):
    task = tiny.task_settings(tokenizer)
    task["objectives"] = {"mim": {"type": kind, "mask_ratio": 0.5, **DECODER, **settings}}
    for key, value in (model or {}).items():
        place = task["model"]
        *parents, last = key.split(".")
        for part in parents:
            place = place[part]
        place[last] = value
    torch.manual_seed(0)
    return PretrainTask.build(from_dict(PretrainTaskConfig, task)).eval()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_equals_vit_mae(tokenizer, normalise: bool, monkeypatch) -> None:
    """On its own predictions, targets and mask; patches in transformers' order of pixels."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    vit = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8, decoder_hidden_size=8, decoder_num_hidden_layers=1,
            decoder_num_attention_heads=1, decoder_intermediate_size=8, norm_pix_loss=normalise,
        )
    )  # fmt: skip
    task = build(tokenizer, normalise=normalise)
    objective = task.objectives["mim"]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(5, 3, 8, 8, generator=generator)
    theirs = vit(pictures, noise=torch.rand(5, 4, generator=generator))
    predicted, masked, want = theirs.logits, theirs.mask.bool(), theirs.loss
    monkeypatch.setattr(objective, "decode", lambda *_: predicted)
    read = objective.reads[0]
    features = Features(5)
    features.fused["image"] = torch.zeros(5, 4, 16)
    features.kept["image"] = torch.zeros(5, 4, dtype=torch.int64)
    features.valid["image"] = torch.ones(5, 4, dtype=torch.bool)
    features.masked["image"] = masked
    features.targets["image"] = vit.patchify(pictures)
    total, count = objective({read: features}, {"group": torch.zeros(5)})["masked_image"]
    assert count.item() == masked.sum().item()
    assert (total / count).item() == pytest.approx(want.item(), rel=1e-5)
    # Our patches hold the same pixels, and both losses are blind to their order within a patch.
    ours = task.model.encoder("image").patchify(pictures)
    assert torch.equal(ours.sort(-1).values, vit.patchify(pictures).sort(-1).values)


def test_normalised_patches() -> None:
    patches = torch.randn(2, 3, 50) * 5 + 2
    got = normalise_patches(patches)
    torch.testing.assert_close(got.mean(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.var(-1), torch.ones(2, 3), atol=1e-5, rtol=0)
    assert normalise_patches(torch.full((1, 1, 4), 3.0)).eq(0).all()  # a flat patch is finite


@pytest.mark.parametrize(
    ("kind", "modality"), [("masked_image", "image"), ("masked_audio", "audio")]
)
def test_the_loss_is_about_masked_patches_only(tokenizer, kind: str, modality: str) -> None:
    task = build(tokenizer, kind, normalise=False)
    batch = task.prepare(tiny.make_batch(0))
    objective = task.objectives["mim"]
    read = objective.reads[0]
    found = task.features(batch, objective.reads)[read]
    plain = objective({read: found}, batch)[f"masked_{modality}"]
    masked = batch["masks"][modality]
    assert plain[1].item() == masked.sum().item() > 0
    found.targets[modality][~masked] += 10.0
    assert torch.equal(objective({read: found}, batch)[f"masked_{modality}"][0], plain[0])
    found.targets[modality][masked] += 1.0
    assert not torch.equal(objective({read: found}, batch)[f"masked_{modality}"][0], plain[0])


def test_each_token_goes_to_its_own_place_and_no_masked_one_is_seen(tokenizer) -> None:
    """The grid given to the decoder: kept tokens at their positions, the mask token elsewhere."""
    objective = build(tokenizer).objectives["mim"]
    objective.mask_token.data.fill_(-3.0)
    given = {}

    def decoder(x, valid):
        given.update(x=x - objective.position, valid=valid)
        return x

    objective.decoder = torch.nn.Identity()
    objective.decoder.forward = decoder
    tokens = torch.randn(3, 3, 16)
    kept = torch.tensor([[0, 3, -1], [1, 2, 3], [2, -1, -1]])
    valid = kept >= 0
    valid[1, 2] = False  # padding of a sound: neither seen nor to be predicted
    masked = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    objective.decode(tokens, kept, valid, masked)
    seen = objective.embed(tokens)
    for row, places in enumerate([{0: 0, 3: 1}, {1: 0, 2: 1}, {2: 0}]):
        for position in range(4):
            want = seen[row, places[position]] if position in places else objective.mask_token
            torch.testing.assert_close(
                given["x"][row, position], want.expand(16), atol=1e-5, rtol=0
            )
    assert given["valid"].tolist() == [
        [True] * 4, [True, True, True, False], [True, True, True, False],
    ]  # fmt: skip


def test_hidden_patches_do_not_reach_their_own_prediction(tokenizer) -> None:
    task = build(tokenizer)
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = task.prepare(tiny.make_batch(0))
    objective = task.objectives["mim"]
    read = objective.reads[0]

    def predictions(batch) -> torch.Tensor:
        f = task.features(batch, [read])[read]
        return objective.decode(
            f.fused["image"], f.kept["image"], f.valid["image"], f.masked["image"]
        )

    before = predictions(batch)
    patches = batch["image"].clone().view(-1, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5)
    changed = patches.clone()
    changed[batch["masks"]["image"].view(-1, 2, 2)] += 5.0
    image = changed.permute(0, 3, 1, 4, 2, 5).reshape(batch["image"].shape)
    assert torch.equal(predictions({**batch, "image": image}), before)
    seen = patches.clone()
    seen[~batch["masks"]["image"].view(-1, 2, 2)] += 5.0
    image = seen.permute(0, 3, 1, 4, 2, 5).reshape(batch["image"].shape)
    assert not torch.equal(predictions({**batch, "image": image}), before)


def test_reads(tokenizer) -> None:
    everything = Read("masked", ("audio", "image", "text"), fused=True)
    assert build(tokenizer).objectives["mim"].reads == (everything,)
    alone = build(tokenizer, context=[]).objectives["mim"].reads
    assert alone == (Read("masked", ("image",), fused=True),)
    without = build(tokenizer, model={"fusion": None}).objectives["mim"].reads
    assert without == (Read("masked", ("image",)),)


@pytest.mark.parametrize("kind", ["masked_image", "masked_audio"])
def test_refused_behind_a_cached_encoder(tokenizer, kind: str) -> None:
    modality = kind.removeprefix("masked_")
    keys = {f"encoders.{modality}.frozen": True, f"encoders.{modality}.cache": True}
    with pytest.raises(ConfigError, match=rf"mim: {kind} can't stand behind .*{modality}\.cache"):
        build(tokenizer, kind, model=keys)
    build(tokenizer, kind, model={f"encoders.{modality}.frozen": True})  # frozen alone is fine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.5}, r"objectives\.mim: mask_ratio = 1\.5 must be above 0 and below 1"),
        ({"modality": "video"}, r"objectives\.mim: modality 'video': the model has only"),
        ({"modality": "text"}, r"the encoder of 'text' has no patches to reconstruct"),
        ({"context": ["smell"]}, r"context names \['smell'\]"),
        ({"model": {"fusion": None}, "context": ["text"]}, r"needs model\.fusion, which is null"),
        ({"weight": -1.0}, "weight must be above 0"),
        ({"decoder_width": 18}, r"decoder_width = 18 must be a multiple of 4"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


@pytest.mark.parametrize("kind", ["masked_image", "masked_audio"])
def test_the_decoder_starts_with_the_codes_of_the_grid(tokenizer, kind: str) -> None:
    """MAE's: neighbours are alike, and a patch is told from every other one."""
    task = build(tokenizer, kind)
    objective = task.objectives["mim"]
    rows, columns = task.model.encoder(objective.modality).grid
    assert torch.equal(objective.position.detach(), sincos_2d(rows, columns, 16))
    assert rows * columns == len(objective.position) > 1
    assert objective.position.requires_grad


def test_nothing_is_predicted_before_training(tokenizer) -> None:
    """The loss on normalised patches starts at 1 - 1/P, what the mean of all patches costs."""
    task = build(tokenizer)
    batch = task.prepare(tiny.make_batch(0))
    objective = task.objectives["mim"]
    size = task.model.encoder("image").patch_dim
    total, count = objective(task.features(batch, objective.reads), batch)["masked_image"]
    assert (total / count).item() == pytest.approx(1 - 1 / size, rel=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_reconstruction_is_what_the_loss_judges(tokenizer, normalise: bool) -> None:
    """In the units of the patches: its squared error over the target's variance is the loss."""
    task = build(tokenizer, normalise=normalise)
    batch = task.prepare(tiny.make_batch(0))
    objective = task.objectives["mim"]
    torch.nn.init.normal_(objective.predict.weight)
    features = task.features(batch, objective.reads)
    made = objective.reconstruct(features)
    assert torch.equal(made.masked, batch["masks"]["image"])
    patches = task.model.encoder("image").patchify(batch["image"])
    assert torch.equal(made.target, patches)
    variance = patches.var(-1, keepdim=True) + 1e-6 if normalise else torch.ones(1)
    error = ((made.predicted - patches).square() / variance).mean(-1)[made.masked]
    total, count = objective(features, batch)["masked_image"]
    assert error.sum().item() == pytest.approx(total.item(), rel=1e-4)
    assert len(error) == count.item()
    without = task.prepare(tiny.make_batch(0, leave_out="image"))
    with pytest.raises(ValueError, match="no sample has 'image'"):
        objective.reconstruct(task.features(without, objective.reads))
