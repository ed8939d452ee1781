"""Distillation and the sigmoid loss in training: exact whatever the micro-batches and the stage;
what of a teacher a run, a resume and a trained model need.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mmfm
from mmfm.checkpoint import Checkpoint
from mmfm.config import from_dict
from mmfm.predictor import untrained
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.train import state
from mmfm.train.engine import end_process_group, start_process_group
from mmfm.train.optim import OptimConfig
from mmfm.train.pretrain import main
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm_prep.cli import main as data_command
from tests import tiny, tiny_runs
from tests.objectives import teachers

SGD = OptimConfig(type="sgd", lr=0.1, weight_decay=0.0, grad_clip=0.0, schedule="constant")


@pytest.fixture
def group():
    before = dict(os.environ)
    start_process_group()
    yield
    end_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("distillation")
    tokenizer = tiny.make_tokenizer(folder / "tokenizer")
    teacher = teachers.write(folder / "teacher", teachers.settings(tokenizer, width=24))
    taught = {"type": "distillation", "teacher": teacher}
    pairs = [["image", "text"], ["audio", "text"]]
    settings = tiny.task_settings(tokenizer)
    settings["objectives"] = {
        "sigmoid": {"type": "sigmoid", "temperature": 0.3, "logit_bias": -1.0, "chunk": 3},
        "embedding": {**taught, "modality": "audio"},
        "feature": {**taught, "what": "feature", "modality": "text", "of": "tokens"},
        "logit": {**taught, "what": "logit", "pairs": pairs},
    }
    settings["objectives"]["sigmoid"]["pairs"] = pairs
    return settings


def train(recipe: dict[str, Any], parts: int, stage: int) -> tuple[list[dict[str, float]], Any]:
    """Losses of three steps, the second without audio, and the last weights; and how often the
    teacher of `logit` ran.
    """
    torch.manual_seed(0)
    task = PretrainTask.build(from_dict(PretrainTaskConfig, recipe))
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    runs = []
    model = task.objectives["logit"].teacher.model
    encode = model.encode
    model.encode = lambda *arguments: runs.append(1) or encode(*arguments)
    trainer = Trainer(
        task,
        TrainConfig(zero_stage=stage, micro_batch_size=tiny.GLOBAL_BATCH // parts),
        SGD,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0}},
    )
    losses = []
    for step in range(3):
        batch = tiny.make_batch(step, "audio" if step == 1 else None)
        parts_of_step = tiny.micro_batches(batch, 0, 1, tiny.GLOBAL_BATCH // parts)
        losses.append(trainer.step(parts_of_step).losses)
    assert len(runs) == 3 * parts
    weights = dict(state.weights_part(trainer.engine))
    trainer.engine.destroy()
    return losses, weights


def test_the_same_training_for_any_micro_batch_and_stage(recipe, group) -> None:
    losses, weights = train(recipe, parts=1, stage=0)
    assert set(losses[0]) == {
        *("sigmoid/image_text", "sigmoid/audio_text", "embedding/audio", "feature/text"),
        *("logit/image_text", "logit/audio_text"),
    }
    assert losses[1]["embedding/audio"] == losses[1]["logit/audio_text"] == 0.0
    assert not any("teacher" in name for name in weights)
    for parts, stage in ((4, 0), (2, 3)):
        other_losses, other = train(recipe, parts, stage)
        for one, two in zip(losses, other_losses, strict=True):
            assert two == pytest.approx(one, rel=2e-6)
        assert set(other) == set(weights)
        for name, weight in weights.items():
            assert (other[name] - weight).norm() <= 2e-6 * weight.norm(), name


# ------------------------------------------------------------------------------ a run


def command(*arguments: str) -> int:
    before = dict(os.environ)
    code = main(arguments)
    end_process_group()
    os.environ.clear()
    os.environ.update(before)
    return code


def test_a_run_needs_its_teacher_and_what_it_trained_does_not(tmp_path: Path, capsys) -> None:
    """Behind a cached image encoder, too, the teacher gets pictures."""
    data = tmp_path / "data"
    assert data_command(["make", "synthetic", str(data), "train_samples=64", "val_samples=16"]) == 0
    small = tiny_runs.pretrain(data, tmp_path / "teacher")[1:]
    teacher = [*small, "train.max_steps=1", "objectives.masked_image=null"]
    assert command(*teacher) == 0
    run = tmp_path / "student"
    student = [
        *tiny_runs.pretrain(data, run)[1:],
        "model.encoders.image.frozen=true",
        "model.encoders.image.cache=true",
        f"run.feature_cache={tmp_path / 'cache'}",
        "objectives.masked_image=null",
        f"objectives.like={{type: distillation, teacher: {tmp_path / 'teacher'}, modality: image}}",
        f"objectives.likes={{type: distillation, teacher: {tmp_path / 'teacher'}, what: logit, "
        "pairs: [[image, text]]}",
        "train.max_steps=2",
    ]
    assert command(*student) == 0
    rows = tiny_runs.training(run)
    assert rows[2]["like/image_loss"] > 0
    assert rows[2]["likes/image_text_loss"] > 0
    shutil.move(tmp_path / "teacher", tmp_path / "gone")
    predictor = mmfm.load(run)
    assert "like" not in predictor.task.objectives
    assert "contrastive" in predictor.task.objectives
    stored = Checkpoint.open(run).tensors("model")
    for name, weight in predictor.task.state_dict().items():
        assert torch.equal(stored[name], weight)
    assert untrained(predictor, 0).specs == predictor.specs
    capsys.readouterr()
    assert command(*student, "train.max_steps=3") == 2
    said = capsys.readouterr().err
    assert f"objectives.like: teacher {tmp_path / 'teacher'}: there is no checkpoint in" in said
