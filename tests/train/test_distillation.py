"""Distillation in training: what of a teacher a step, a run, a resume and a trained model need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

import mmfm
from mmfm.checkpoint import Checkpoint
from mmfm.predictor import untrained
from mmfm.train.engine import end_process_group, state
from mmfm.train.optim import OptimConfig
from mmfm.train.pretrain import main
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm_prep.cli import main as data_command
from tests import tiny, tiny_runs
from tests.objectives import teachers

PARTS = 4


def test_a_teacher_runs_once_a_micro_batch_and_is_not_saved(group, tmp_path: Path) -> None:
    """grad_cache takes the student through each micro-batch twice. That training is exact is in
    test_exactness.py.
    """
    tokenizer = tiny.make_tokenizer(tmp_path / "tokenizer")
    teacher = teachers.write(tmp_path / "teacher", teachers.settings(tokenizer, width=24))
    task = tiny.make_task(tokenizer, teacher=teacher)
    runs = []
    model = task.objectives["affinity"].teacher.model
    encode = model.encode
    model.encode = lambda *arguments: runs.append(1) or encode(*arguments)
    size = tiny.GLOBAL_BATCH // PARTS
    trainer = Trainer(
        task,
        TrainConfig(zero_stage=0, micro_batch_size=size),
        OptimConfig(),
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
    )
    for step in range(3):
        batch = tiny.make_batch(step, "audio" if step == 1 else None)
        losses = trainer.step(tiny.micro_batches(batch, 0, 1, size)).losses
        assert (losses["embedding/audio"] == 0.0) == (step == 1)
    # Three objectives share it; that of the audio has none in one step.
    assert len(runs) == (3 + 3 + 2) * PARTS
    weights = dict(state.weights_part(trainer.engine))
    assert set(weights) == set(task.state_dict())
    assert not any("teacher" in name for name in weights)
    trainer.engine.destroy()


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
