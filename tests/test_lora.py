"""LoRA: what gets it, its arithmetic against one written down, and its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import Tensor
from torch.func import functional_call

import mmfm
from mmfm import checkpoint
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError, from_dict
from mmfm.layers.lora import can_wrap, merged, of_lora, wrap
from mmfm.lora import described
from mmfm.predictor import untrained
from mmfm.task import FinetuneTask, FinetuneTaskConfig
from mmfm.types import Batch
from mmfm.weights import load_model
from tests import tiny
from tests.objectives import teachers

NAMES = ["circle", "square", "star"]
RANK, ALPHA = 3, 6.0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("lora") / "tokenizer")


def settings(tokenizer: str, dropout: float = 0.0, **lora) -> dict:
    raw = {"model": tiny.task_settings(tokenizer)["model"]}
    raw["head"] = {"type": "classification", "label": "shape", "modalities": ["image", "text"]}
    return {**raw, "lora": {"rank": RANK, "alpha": ALPHA, "dropout": dropout, **lora}}


def build(raw: dict, seed: int = 0) -> FinetuneTask:
    """Without its head's zeros, behind which nothing would have a gradient."""
    torch.manual_seed(seed)
    task = FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), NAMES)
    torch.nn.init.normal_(task.head.classifier.weight)
    return task


def make_batch() -> Batch:
    labels = torch.arange(tiny.GLOBAL_BATCH) % len(NAMES)
    return {**tiny.make_batch(0), "labels": labels, "dropout_seed": 5}


def loss_of(task: FinetuneTask, batch: Batch) -> Tensor:
    batch = task.prepare(batch)
    return task.total(task(batch).losses, task.counts(batch))


def randomise(task: FinetuneTask) -> None:
    """A and B as training leaves them."""
    torch.manual_seed(7)
    for name, parameter in task.named_parameters():
        if of_lora(name):
            torch.nn.init.normal_(parameter, std=0.3)


def plain_copy(task: FinetuneTask, raw: dict) -> FinetuneTask:
    """The task without LoRA, with the base weights of `task`."""
    plain = build({**raw, "lora": None})
    weights = {n.replace(".base_layer.", "."): t for n, t in task.state_dict().items()}
    plain.load_state_dict({n: t for n, t in weights.items() if not of_lora(n)})
    return plain


def test_at_first_nothing_has_changed(tokenizer: str) -> None:
    raw = settings(tokenizer)
    task = build(raw)
    plain = plain_copy(task, raw)
    found, want = (t(make_batch(), predict=True).predictions["logits"] for t in (task, plain))
    assert torch.equal(found, want)
    assert want.abs().max() > 0.1


@pytest.mark.parametrize("parts", [None, ["text"], ["fusion", "image"]])
def test_of_its_parts_only_lora_trains(tokenizer: str, parts: list[str] | None) -> None:
    task = build(settings(tokenizer, parts=parts))
    chosen = ["encoders.image.", "encoders.text.", "encoders.audio.", "fusion."]
    if parts is not None:
        chosen = ["fusion." if p == "fusion" else f"encoders.{p}." for p in parts]
    fronts = tuple(f"model.{part}" for part in chosen)
    for name, parameter in task.named_parameters():
        inside = name.startswith(fronts)
        assert of_lora(name) <= inside, name
        assert parameter.requires_grad == (not inside or of_lora(name)), name
    lines = described(task.model)
    assert len(lines) == len(fronts)
    # qkv, out and two of the MLP in one block of width 16
    weights = RANK * ((16 + 48) + (16 + 16) + 2 * (16 + 64))
    assert lines[0].endswith(f": {weights:,} weights in 4 layers (qkv, out, mlp.0, mlp.3)")


def test_gradients_equal_those_of_products_written_down(tokenizer: str) -> None:
    raw = settings(tokenizer, parts=["text", "fusion"])
    task = build(raw).double()
    randomise(task)
    loss = loss_of(task, make_batch())
    loss.backward()
    plain = plain_copy(task, raw).double()
    weights = dict(plain.named_parameters())
    low = {n: p.detach().clone().requires_grad_() for n, p in task.named_parameters() if of_lora(n)}
    layers = [n.removesuffix(".lora_A.default.weight") for n in low if "lora_A" in n]
    for layer in layers:
        a, b = (low[f"{layer}.lora_{x}.default.weight"] for x in "AB")
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"].detach() + ALPHA / RANK * (b @ a)

    def total(batch: Batch) -> Tensor:
        batch = plain.prepare(batch)
        output = functional_call(plain, weights, (batch,))
        return plain.total(output.losses, plain.counts(batch))

    want = total(make_batch())
    want.backward()
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    assert len(layers) == 8
    for name, parameter in task.named_parameters():
        if of_lora(name):
            assert low[name].grad.abs().max() > 1e-6
            torch.testing.assert_close(parameter.grad, low[name].grad, rtol=1e-9, atol=1e-12)
        elif ".base_layer." in name:
            assert parameter.grad is None


def test_dropout_comes_from_the_seed_of_the_micro_batch(tokenizer: str) -> None:
    task = build(settings(tokenizer, dropout=0.5))
    randomise(task)
    batch = make_batch()
    one, again, other = (
        loss_of(task, {**batch, "dropout_seed": seed}).item() for seed in (5, 5, 6)
    )
    assert one == again != other
    task.eval()
    assert loss_of(task, batch).item() == loss_of(task, {**batch, "dropout_seed": 6}).item()


# ------------------------------------------------------------------------------ checkpoints


def write(task: FinetuneTask, raw: dict, folder: Path) -> Checkpoint:
    def files(hidden: Path) -> None:
        (hidden / "config.yaml").write_text(yaml.safe_dump(raw))
        told = {"specs": task.specs, "transforms": {}, "label": ["shape", NAMES]}
        (hidden / "preprocessing.json").write_text(json.dumps(told))
        task.model.save_assets(hidden / "assets")

    weights = {"model": task.state_dict().items()}
    return Checkpoint.open(checkpoint.write(folder, 1, 32, weights, files, {}))


def test_a_checkpoint_is_loaded_as_it_is_and_merged_as_init(tokenizer: str, tmp_path: Path) -> None:
    raw = settings(tokenizer)
    task = build(raw)
    randomise(task)
    found = write(task, raw, tmp_path)
    batch = make_batch()
    predictor = mmfm.load(found.path)
    want = task.eval()(batch, predict=True).predictions["logits"]
    assert torch.equal(predictor.task(batch, predict=True).predictions["logits"], want)

    plain = build({**raw, "lora": None}, seed=1)
    load_model(plain.model, found)
    plain.head.load_state_dict(task.head.state_dict())
    got = plain.double()(batch, predict=True).predictions["logits"]
    want = task.double()(batch, predict=True).predictions["logits"]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)  # W is stored in fp32
    moved = build({**raw, "lora": None}, seed=0).state_dict()
    name = "model.encoders.text.transformer.blocks.0.attention.qkv.weight"
    assert not torch.equal(moved[name], plain.state_dict()[name].float())

    # Into another one with LoRA: the sums are its base weights, its own products begin anew.
    again = build(raw, seed=1)
    fresh = {n: t.clone() for n, t in again.state_dict().items() if of_lora(n)}
    load_model(again.model, found)
    for name, tensor in again.state_dict().items():
        if of_lora(name):
            assert torch.equal(tensor, fresh[name]), name
        elif name.startswith("model."):
            short = name.replace(".base_layer.", ".")
            assert torch.equal(tensor, plain.state_dict()[short].float()), name


def test_the_untrained_model_keeps_the_base_weights(tokenizer: str, tmp_path: Path) -> None:
    raw = settings(tokenizer, parts=["text", "fusion"])
    task = build(raw)
    randomise(task)
    predictor = mmfm.load(write(task, raw, tmp_path).path)
    weights = untrained(predictor, seed=3).task.state_dict()
    for name, tensor in predictor.task.state_dict().items():
        if name.startswith(("model.encoders.text", "model.fusion")) and not of_lora(name):
            assert torch.equal(weights[name], tensor), name
        elif name.endswith("lora_B.default.weight"):
            assert not weights[name].any()
    name = "model.encoders.image.transformer.blocks.0.attention.qkv.weight"
    assert not torch.equal(weights[name], predictor.task.state_dict()[name])


# ------------------------------------------------------------------------------ other encoders


def with_encoder(tokenizer: str, modality: str, encoder: dict, **lora) -> FinetuneTask:
    raw = settings(tokenizer, parts=[modality], **lora)
    raw["model"]["encoders"][modality] = encoder
    return build(raw)


def test_transformers_layers(tokenizer: str, tmp_path: Path) -> None:
    bert = teachers.bert_folder(tmp_path / "bert", tokenizer)
    (line,) = described(with_encoder(tokenizer, "text", bert).model)
    assert "6 layers (query, key, value, dense)" in line
    task = with_encoder(tokenizer, "text", bert, targets=["query", "attention.output.dense"])
    (line,) = described(task.model)
    assert "2 layers (query, dense)" in line


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("test_vit", "(qkv, proj, fc1, fc2)"),
        ("test_efficientnet", "(conv_pwl, conv_pw, conv_reduce, conv_expand, conv_head)"),
    ],
)
def test_timm_layers_and_their_sums(tokenizer: str, name: str, layers: str) -> None:
    encoder = {"type": "timm_model", "name": name, "pretrained": False}
    task = with_encoder(tokenizer, "image", encoder)
    (line,) = described(task.model)
    assert layers in line
    randomise(task)
    image = task.model.encoder("image")
    size = image.spec["size"]
    pictures = torch.randn(2, 3, size, size)
    want = image.double()(pictures.double())[1]
    plain = with_encoder(tokenizer, "image", encoder, targets=None).model.encoder("image")
    raw = settings(tokenizer)
    raw["model"]["encoders"]["image"] = encoder
    plain = build({**raw, "lora": None}).model.encoder("image").double()
    before = plain(pictures.double())[1]
    plain.load_state_dict(merged(image.state_dict(), ALPHA / RANK))
    torch.testing.assert_close(plain(pictures.double())[1], want, rtol=1e-9, atol=1e-9)
    assert (before - want).abs().max() > 1e-3


def test_layers_that_are_never_called_get_none() -> None:
    """Of BEiT and EVA the attention takes the weight out of ``qkv``; its bias is its own."""
    for name in ("beit_base_patch16_224", "vit_base_patch16_224"):
        sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32}
        model = timm.create_model(name, num_classes=0, **sizes)
        layers = [layer for layer in can_wrap(model) if layer.startswith("blocks.")]
        wrap(model, layers, RANK, ALPHA)
        model(torch.randn(2, 3, 32, 32)).square().sum().backward()
        b = {n: p for n, p in model.named_parameters() if n.endswith("lora_B.default.weight")}
        assert len(b) == (3 if "beit" in name else 4)
        assert all(p.grad is not None for p in b.values())


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, r"lora: rank = 0 must be at least 1"),
        ({"alpha": 0}, r"lora: alpha = 0\.0 must be above 0"),
        ({"dropout": 1}, r"lora: dropout = 1\.0 must be in \[0, 1\)"),
        ({"parts": []}, r"lora: parts is empty"),
        ({"parts": ["video"]}, r"lora: parts: there is no 'video'; .* image, text, audio, fusion"),
        ({"targets": ["qvk"]}, r"lora: targets: no layer is called 'qvk'; there are .*qkv, out"),
        (
            {"parts": ["text"], "targets": ["patch_embed"]},
            r"lora: parts: 'text' has no layer for it; there are qkv, out, mlp\.0, mlp\.3",
        ),
    ],
)
def test_bad_settings(tokenizer: str, lora: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(settings(tokenizer, **lora))


def test_a_frozen_encoder_can_not_have_it(tokenizer: str) -> None:
    raw = settings(tokenizer, parts=["text"])
    raw["model"]["encoders"]["text"]["frozen"] = True
    with pytest.raises(ConfigError, match=r"lora: parts: the encoder of 'text' is frozen"):
        build(raw)
    raw["lora"]["parts"] = None  # all that aren't frozen
    assert [line.split(":")[0] for line in described(build(raw).model)] == [
        "image",
        "audio",
        "fusion",
    ]
    for encoder in raw["model"]["encoders"].values():
        encoder["frozen"] = True
    raw["model"]["fusion"] = {"type": "late"}
    with pytest.raises(ConfigError, match="lora: there is no layer to put it into"):
        build(raw)
