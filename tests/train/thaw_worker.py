"""Train the tiny model with a part that thaws, its own learning rates and an average of its
weights; part of the launch of exactness_worker.py, see test_thaw.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import deepspeed
import torch
from safetensors.torch import save_file

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint
from mmfm.train.engine import state
from mmfm.train.engine.pieces import averaged_weights, full_state, full_weight, held_states
from mmfm.train.optim import OptimConfig
from mmfm.train.optim.average import EMA, EmaConfig
from mmfm.train.optim.groups import freeze_parts
from mmfm.train.resume import restored
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm.weights import load_task
from tests import tiny

STEPS, THAW = 4, 2
COMMON = {
    "weight_decay": 0.01,
    "grad_clip": 0.0,
    "schedule": "constant",
    "freeze": {"model.encoders.text": THAW},
    "lr_factors": {"objectives": 2.0},
    "layer_decay": {"image": 0.5},
    "ema": EmaConfig(decay=0.2),  # the warm-up reaches it in the third step
}
OPTIM = {
    "sgd": OptimConfig(type="sgd", lr=0.004, momentum=0.9, **COMMON),
    "adamw": OptimConfig(lr=1e-3, **COMMON),
    "lion": OptimConfig(type="lion", lr=1e-4, **COMMON),
}


@dataclasses.dataclass(frozen=True)
class Case:
    stage: int
    optimizer: str
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return f"thaw-stage{self.stage}-{self.optimizer}-{self.precision}"


CASES = [Case(0, "sgd"), Case(1, "lion"), Case(2, "sgd"), Case(3, "sgd")]
CASES += [Case(2, "adamw"), Case(1, "adamw", "bf16"), Case(3, "adamw", "bf16")]


def run(case: Case, tokenizer: str, out: Path) -> None:
    """Writes the losses of every step, the weights before each step and the last ones, the average
    at the end, and what the module holds when that stands in for its weights.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    parts = [
        tiny.micro_batches(tiny.make_batch(i), rank, world_size, tiny.GLOBAL_BATCH // world_size)
        for i in range(STEPS)
    ]
    seen: dict[str, torch.Tensor] = {}
    trainer = start(case, tokenizer)
    losses = steps(trainer, parts[:THAW], seen)
    folder = checkpoint.write(
        out / f"{case.name}-checkpoints",
        THAW,
        0,
        {
            "model": state.weights_part(trainer.engine),
            "optimizer": state.optimizer_part(trainer.engine),
            "ema": state.ema_part(trainer.engine),
        },
        lambda hidden: None,
        {"optimizer_scalars": state.optimizer_scalars(trainer.engine), "loss_scaler": {}},
    )
    trainer.engine.destroy()
    found = Checkpoint.open(folder)
    trainer = start(case, tokenizer, found)
    left = restored(trainer, found, iter(parts[THAW:]))
    trainer.step_index = THAW
    losses += steps(trainer, list(left), seen)
    keep(trainer, seen, f"weight/{STEPS}")
    for name, average in averages(trainer).items():
        seen[f"ema/{name}"] = average
    module(trainer, seen, "before")
    with averaged_weights(trainer.engine):
        module(trainer, seen, "inside")
    module(trainer, seen, "after")
    keep(trainer, seen, "after_masters")
    again = averages(trainer)
    assert all(torch.equal(again[name], seen[f"ema/{name}"]) for name in again)
    groups = sorted(
        (group["lr"], group["since"], group["weight_decay"])
        for group in trainer.engine.basic_optimizer.param_groups
    )
    if distributed.is_main():
        told = {"losses": losses, "groups": groups}
        (out / f"{case.name}.json").write_text(json.dumps(told))
        save_file(seen, out / f"{case.name}.safetensors")
    trainer.engine.destroy()


def start(case: Case, tokenizer: str, found: Checkpoint | None = None) -> Trainer:
    task = tiny.make_task(tokenizer, seed=0)
    if found is not None:
        load_task(task, found)
    optim = OPTIM[case.optimizer]
    freeze_parts(task, optim.freeze, 0 if found is None else found.step)
    return Trainer(
        task,
        TrainConfig(zero_stage=case.stage, precision=case.precision),
        optim,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 20}},
    )


def steps(trainer: Trainer, parts: list, seen: dict[str, torch.Tensor]) -> list[dict[str, float]]:
    losses = []
    for part in parts:
        keep(trainer, seen, f"weight/{trainer.step_index}")
        losses.append(trainer.step(part).losses)
    return losses


def keep(trainer: Trainer, seen: dict[str, torch.Tensor], where: str) -> None:
    for name, parameter in trainer.task.named_parameters():
        seen[f"{where}/{name}"] = full_weight(parameter).detach().float().clone().contiguous()


def averages(trainer: Trainer) -> dict[str, torch.Tensor]:
    list(held_states(trainer.engine))  # links the state
    trained = {n: p for n, p in trainer.task.named_parameters() if p.requires_grad}
    return {
        name: full_state(trainer.engine, parameter, EMA).detach().clone().contiguous()
        for name, parameter in trained.items()
    }


def module(trainer: Trainer, seen: dict[str, torch.Tensor], where: str) -> None:
    for name, parameter in trainer.task.named_parameters():
        whole = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(whole):
            seen[f"{where}/{name}"] = parameter.detach().clone().contiguous()
