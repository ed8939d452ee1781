"""The command ``mmfm finetune`` with LoRA, the last layers, layers that thaw, and L2-SP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.layers.lora import is_wrapped, of_lora
from tests.tiny_runs import exact, pretrain
from tests.train.test_finetune import finetune

PARTS = (
    "lora={rank: 2, alpha: 4, dropout: 0.2, parts: [fusion]}",
    "optim.top_layers={audio: 1}",
    "optim.unfreeze_every={image: 2}",
    "optim.l2_sp=0.1",
)


@pytest.fixture(scope="module")
def pretrained(synthetic, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("parts") / "pretrained"
    assert cli.main(pretrain(synthetic, run, "train.max_steps=1")) == 0
    return run


@pytest.fixture(scope="module")
def adapted(pretrained, synthetic, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("parts") / "run"
    assert cli.main(finetune(synthetic, pretrained, run, *PARTS)) == 0
    return run


def weights(run: Path) -> dict[str, Tensor]:
    return Checkpoint.open(run).tensors("model")


def test_only_what_the_recipe_names_has_moved(adapted: Path, pretrained: Path) -> None:
    before, after = weights(pretrained), weights(adapted)
    moved = set()
    for name, tensor in after.items():
        old = before.get(name.replace(".base_layer.", "."))
        if old is None:
            assert of_lora(name) or name.startswith("objectives.head."), name
        elif not torch.equal(tensor, old):
            moved.add(name)
    # The layer of the pictures from step 2 on, what stands before it from step 4, the last.
    layers = tuple(f"model.encoders.{modality}.transformer." for modality in ("audio", "image"))
    assert moved == {n for n in before if n.startswith(layers)}
    b = [n for n in after if n.endswith("lora_B.default.weight")]
    assert len(b) == 4
    assert all(after[name].any() for name in b)


def test_resumed_run_equals_the_uninterrupted_one(
    adapted: Path, pretrained: Path, synthetic: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(adapted, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/step_00000004")
    assert cli.main(finetune(synthetic, pretrained, run, *PARTS)) == 0
    assert exact(run) == exact(adapted)
    before, after = weights(adapted), weights(run)
    assert all(torch.equal(after[name], before[name]) for name in before)
    starts = Checkpoint.open(run).tensors("optimizer")
    old = weights(pretrained)
    name = "model.encoders.audio.transformer.blocks.0.mlp.0.weight"
    assert torch.equal(starts[f"{name}/start"], old[name])


def test_loaded_and_as_init_of_another_run(adapted: Path, synthetic: Path, tmp_path: Path) -> None:
    predictor = mmfm.load(adapted)
    assert is_wrapped(predictor.model)
    run = tmp_path / "run"
    words = finetune(synthetic, adapted, run, "freeze=model", "train.max_steps=1")
    assert cli.main(words) == 0
    plain = mmfm.load(run)
    assert not is_wrapped(plain.model)
    text = ["a red circle", "two"]
    assert torch.equal(plain.encode(text=text)["text"], predictor.encode(text=text)["text"])
    tokens = torch.rand(3, 5, 16).double()
    one, other = (p.model.fusion.double().transformer(tokens) for p in (predictor, plain))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_plan_shows_what_trains(
    adapted: Path, pretrained: Path, synthetic: Path, tmp_path: Path, capsys
) -> None:
    words = finetune(synthetic, pretrained, tmp_path / "run", *PARTS, "--dry-run")
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert "layers    audio: layer 1 from step 0; those before never" in told
    assert "layers    image: layer 1 from step 2; those before from step 4" in told
    lora = "lora      fusion: 512 weights in 4 layers (qkv, out, mlp.0, mlp.3)"
    assert lora in told
    fusion = next(line for line in told if line.startswith("weights   model.fusion"))
    assert fusion.endswith("  512 train")
    image = next(line for line in told if line.startswith("weights   model.encoders.image"))
    assert image.endswith("  frozen")
    assert f"step {lora}" not in told
    assert lora in (adapted / "log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("freeze=model", "lora={}"), "freeze = model trains the head only, but lora is for"),
        (("freeze=encoders", "lora={parts: [text]}"), "lora: parts: the encoder of 'text' is fro"),
        (("freeze=encoders", "optim.top_layers={text: 1}"), "the encoder of 'text' is frozen alre"),
        (
            ("init=null", "model={encoders: {image: {type: vision_transformer}}}", "optim.l2_sp=1"),
            "optim.l2_sp draws weights to those of a pretrained model",
        ),
    ],
)
def test_what_makes_no_sense_together(
    pretrained: Path, synthetic: Path, tmp_path: Path, capsys, words: tuple[str, ...], message: str
) -> None:
    assert cli.main(finetune(synthetic, pretrained, tmp_path / "run", *words)) == 2
    assert message in capsys.readouterr().err


def test_pretraining_needs_an_init_for_it_too(synthetic: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(pretrain(synthetic, tmp_path / "run", "optim.l2_sp=1")) == 2
    assert "name its checkpoint as init" in capsys.readouterr().err
