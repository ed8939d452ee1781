"""The command ``mmfm finetune``: what is frozen, what is shown, what can be used afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.data.manifest import Manifest
from mmfm.data.sequential import SequentialData
from mmfm.train.log import read_metrics
from tests.launch import ROOT
from tests.tiny_runs import exact, on, pretrain, training

CONFIG = str(ROOT / "configs/finetune/tiny.yaml")
RETRIEVAL = "head={type: retrieval, pairs: [[image, text]]}"
RETRIEVAL_EVAL = (
    "eval.tasks={names: {type: retrieval, query: {source: held_out, modality: image}, "
    "gallery: {source: held_out, modality: text}}}"
)


@pytest.fixture(scope="module")
def pretrained(synthetic, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finetune") / "pretrained"
    assert cli.main(pretrain(synthetic, run, "train.max_steps=4")) == 0
    return run


def finetune(data: Path, init: Path, run: Path, *more: str) -> list[str]:
    paths = [word for word in on(data, run) if "tokenizer" not in word]
    short = ["train.max_steps=4", "train.eval_every=4", "train.save_every=2"]
    return ["finetune", CONFIG, *paths, f"init={init}", *short, *more]


def weights(run: Path) -> dict[str, Tensor]:
    return Checkpoint.open(run).tensors("model")


@pytest.fixture(scope="module")
def runs(pretrained, synthetic, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for freeze in ("none", "encoders", "model"):
        words = finetune(synthetic, pretrained, folder / freeze, f"freeze={freeze}")
        assert cli.main(words) == 0
    return folder


@pytest.mark.parametrize(
    ("freeze", "frozen", "trained"),
    [
        ("model", ["model."], ["objectives.head."]),
        ("encoders", ["model.encoders."], ["model.fusion.", "objectives.head."]),
        ("none", [], ["model.encoders.image.", "model.encoders.audio.", "model.fusion."]),
    ],
)
def test_frozen_weights_stay_bit_equal(
    runs: Path, pretrained: Path, freeze: str, frozen: list[str], trained: list[str]
) -> None:
    before, after = weights(pretrained), weights(runs / freeze)
    assert {n for n in after if n.startswith("model.")} == {
        n for n in before if n.startswith("model.")
    }
    for prefix in frozen:
        names = [n for n in before if n.startswith(prefix)]
        assert names
        for name in names:
            assert torch.equal(after[name], before[name]), name
    for prefix in trained:
        changed = [
            n
            for n in after
            if n.startswith(prefix) and (n not in before or not torch.equal(after[n], before[n]))
        ]
        assert changed, prefix
    head = [n for n in after if n.endswith("classifier.weight")]
    assert len(head) == 1
    assert after[head[0]].abs().max() > 0  # it starts at zero


def test_scores_before_and_after_are_shown(
    pretrained: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    run = tmp_path / "run"
    assert cli.main(finetune(synthetic, pretrained, run)) == 0
    rows = [r for r in read_metrics(run / "metrics.jsonl") if r.get("metric") == "accuracy"]
    assert [r["step"] for r in rows] == [0, 4]
    values = f"before {rows[0]['value']:.4f}  after {rows[1]['value']:.4f}"
    out, err = capfd.readouterr()
    beside = f"chance 0.1667  majority class of the source {rows[0]['baseline']:.4f}"
    assert f"shape accuracy: {values}  n {rows[0]['n']}  {beside}" in out.splitlines()
    assert all(line.startswith(("step ", "head ")) for line in err.splitlines())
    assert all("classification_loss" in key or "head" in key for key in _losses(training(run)[1]))


def _losses(row: dict) -> list[str]:
    return [key for key in row if key.endswith("_loss")]


def test_loaded_head_predicts_what_the_run_scored(runs: Path, synthetic: Path) -> None:
    predictor = mmfm.load(runs / "none")
    assert predictor.label is not None
    field, names, kind = predictor.label
    assert (field, kind) == ("shape", "class")
    assert names == sorted(["circle", "square", "triangle", "star", "cross", "ring"])
    data = SequentialData(
        [("held_out", Manifest.open(synthetic, ["val"]))],
        predictor.specs,
        batch_size=64,
        rank=0,
        world_size=1,
        label=predictor.label,
    )
    found = predictor.logits_batches(data)
    accuracy = float((found.logits.argmax(1) == found.labels).mean())
    rows = [r for r in read_metrics(runs / "none/metrics.jsonl") if r.get("metric") == "accuracy"]
    assert rows[-1]["value"] == pytest.approx(accuracy)
    assert rows[-1]["n"] == len(found.labels)


def test_retrieval_head(pretrained: Path, synthetic: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = finetune(synthetic, pretrained, run, RETRIEVAL, RETRIEVAL_EVAL)
    assert cli.main(words) == 0
    before, after = weights(pretrained), weights(run)
    for name in ("projections.image.maps.linear.weight", "projections.text.maps.linear.weight"):
        assert not torch.equal(after[f"model.{name}"], before[f"model.{name}"])
    assert set(after) - set(before) == {n for n in after if n.startswith("objectives.head.")}
    assert {row["samples_seen"] for row in training(run).values()} == {32, 64, 96, 128}
    scores = [r for r in read_metrics(run / "metrics.jsonl") if r.get("task") == "names"]
    assert {r["step"] for r in scores} == {0, 4}
    found = mmfm.load(run).encode(text=["a red circle"])["text"]
    assert found.shape == (1, 32)


@pytest.mark.parametrize("freeze", ["none", "model"])
def test_resumed_run_equals_the_uninterrupted_one(
    runs: Path, pretrained: Path, synthetic: Path, tmp_path: Path, freeze: str
) -> None:
    run = Path(shutil.copytree(runs / freeze, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/step_00000004")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"step": 4' not in line and '"step": 3' not in line]
    (run / "metrics.jsonl").write_text("".join(kept))
    assert cli.main(finetune(synthetic, pretrained, run, f"freeze={freeze}")) == 0
    assert exact(run) == exact(runs / freeze)
    before, after = weights(runs / freeze), weights(run)
    assert all(torch.equal(after[name], before[name]) for name in before)
