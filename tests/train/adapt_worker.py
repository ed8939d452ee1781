"""Fine-tune the tiny model with LoRA, the last layers of an encoder, layers that begin to train one
after the other, L2-SP and a teacher; part of the launch of exactness_worker.py, see test_adapt.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint
from mmfm.config import from_dict
from mmfm.layers.lora import is_wrapped
from mmfm.task import FinetuneTask, FinetuneTaskConfig
from mmfm.train.engine import state
from mmfm.train.engine.pieces import full_weight
from mmfm.train.optim import OptimConfig, frozen_until
from mmfm.train.optim.groups import freeze_parts
from mmfm.train.resume import restored
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm.types import Batch
from mmfm.weights import load_task
from tests import tiny
from tests.test_teaching import write

STEPS, THAW = 4, 2
CLASSES = ["circle", "square", "star"]
OPTIM = OptimConfig(
    type="sgd",
    lr=0.01,
    momentum=0.9,
    weight_decay=0.5,
    l2_sp=2.0,
    grad_clip=0.0,
    schedule="constant",
    top_layers={"audio": 1},
    unfreeze_every={"image": THAW},
)
STAGES = (0, 1, 2, 3)


HEAD = {"type": "classification", "label": "shape", "modalities": ["image", "text", "audio"]}


def teacher_of(tokenizer: str) -> Path:
    """The folder beside the tokenizer that holds the fine-tuned teacher."""
    return Path(tokenizer).parent / "fine-tuned"


def write_teacher(tokenizer: str, model: dict[str, Any]) -> None:
    """Its head's labels are in another order."""
    write(teacher_of(tokenizer), {"model": model, "head": HEAD}, CLASSES[::-1])


def make_task(tokenizer: str) -> FinetuneTask:
    """With weights of the size that training reaches, those of LoRA too."""
    torch.manual_seed(0)
    raw: dict[str, Any] = {
        "model": tiny.task_settings(tokenizer)["model"],
        "head": HEAD,
        "lora": {"rank": 2, "alpha": 3.0, "parts": ["text", "fusion"]},
        "teacher": {"path": str(teacher_of(tokenizer)), "hidden": 0.3},
    }
    task = FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), CLASSES)
    assert is_wrapped(task.model)
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif parameter.abs().max() < 0.1:
            torch.nn.init.normal_(parameter, std=0.1)
    return task


def make_batch(step: int) -> Batch:
    batch = tiny.make_batch(step)
    labels = batch["group"] % len(CLASSES)
    labels[::5] = -100  # these learn from the teacher only
    return {**batch, "labels": labels}


def run(stage: int, tokenizer: str, out: Path) -> None:
    """Writes the losses of every step and the last weights; the engine is built anew on the way."""
    rank, ranks = distributed.rank(), distributed.world_size()
    size = tiny.GLOBAL_BATCH // ranks // 2
    parts = [tiny.micro_batches(make_batch(i), rank, ranks, size) for i in range(STEPS)]
    trainer = start(stage, tokenizer, size)
    losses = [trainer.step(part).losses for part in parts[:THAW]]
    folder = checkpoint.write(
        out / f"adapt-stage{stage}-checkpoints",
        THAW,
        0,
        {
            "model": state.weights_part(trainer.engine),
            "optimizer": state.optimizer_part(trainer.engine),
        },
        lambda hidden: None,
        {"optimizer_scalars": state.optimizer_scalars(trainer.engine), "loss_scaler": {}},
    )
    trainer.engine.destroy()
    found = Checkpoint.open(folder)
    trainer = start(stage, tokenizer, size, found)
    left = restored(trainer, found, iter(parts[THAW:]))
    trainer.step_index = THAW
    losses += [trainer.step(part).losses for part in left]
    seen = {
        name: full_weight(parameter).detach().float().clone().contiguous()
        for name, parameter in trainer.task.named_parameters()
    }
    if distributed.is_main():
        (out / f"adapt-stage{stage}.json").write_text(json.dumps(losses))
        save_file(seen, out / f"adapt-stage{stage}.safetensors")
    trainer.engine.destroy()


def start(stage: int, tokenizer: str, size: int, found: Checkpoint | None = None) -> Trainer:
    task = make_task(tokenizer)
    if found is not None:
        load_task(task, found)
    freeze_parts(task, frozen_until(task, OPTIM), 0 if found is None else found.step)
    return Trainer(
        task,
        TrainConfig(zero_stage=stage, micro_batch_size=size),
        OPTIM,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed=tiny.IN_PARTS,
    )
