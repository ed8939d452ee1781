"""What a head takes over from the objectives of the checkpoint that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.train.finetune import prepare
from tests.launch import ROOT
from tests.tiny_runs import on, pretrain

CONFIG = str(ROOT / "configs/finetune/tiny.yaml")
CAPTION = "type: caption, width: 16, heads: 4, layers: 1"


@pytest.fixture(scope="module")
def pretrained(synthetic: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("inherit") / "pretrained"
    assert cli.main(pretrain(synthetic, run, "train.max_steps=1")) == 0
    return run


def prepared(data: Path, init: Path, run: Path, head: str):
    paths = [word for word in on(data, run) if "tokenizer" not in word]
    return prepare(CONFIG, [*paths, f"init={init}", f"head={{{head}}}", "eval.tasks={}"])


def test_decoder_and_judge_go_on(synthetic: Path, pretrained: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(pretrained).tensors("model")
    for head, name, part in (
        (f"{CAPTION}, sources: [audio, image], dropout: 0.5", "caption", "head.head.caption"),
        ("type: retrieval, pairs: [[audio, text]], matching: {weight: 0.5}", "matching", ""),
    ):
        run = prepared(synthetic, pretrained, tmp_path, head)
        assert any(
            f"its {name} part goes on from objectives.{name} of {pretrained}" in line
            for line in run.notes
        )
        after = run.task.state_dict()
        names = [n for n in before if n.startswith(f"objectives.{name}.")]
        assert names
        for old in names:
            new = old.replace(f"objectives.{name}.", f"objectives.{part or name}.")
            assert torch.equal(after[new], before[old]), new
    assert run.task.weights == {"head": 1.0, "matching": 0.5}


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (f"{CAPTION}, sources: [image]", "has other settings"),
        ("type: caption, width: 32, sources: [audio, image]", "has other settings"),
    ],
)
def test_another_decoder_starts_anew(
    synthetic: Path, pretrained: Path, tmp_path: Path, head: str, why: str
) -> None:
    notes = prepared(synthetic, pretrained, tmp_path, head).notes
    (told,) = [line for line in notes if "its caption part begins anew: objectives.c" in line]
    assert told.endswith(why)


def test_a_checkpoint_without_such_an_objective(synthetic: Path, tmp_path: Path) -> None:
    plain = "objectives={contrastive: {type: contrastive, pairs: [[image, text]]}}"
    words = [w for w in pretrain(synthetic, tmp_path / "p", plain) if "decoder" not in w]
    words = [w for w in words if not w.startswith("objectives.caption")]
    assert cli.main([*words, "train.max_steps=1"]) == 0
    head = f"{CAPTION}, sources: [image]"
    notes = prepared(synthetic, tmp_path / "p", tmp_path / "r", head).notes
    assert any(line.endswith("step_00000001 has no caption objective") for line in notes)
