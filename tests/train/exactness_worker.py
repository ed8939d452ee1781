"""Train the tiny model in every case of the equality matrix, in one process group; see
test_exactness.py.

    deepspeed --num_gpus 2 --module tests.train.exactness_worker TOKENIZER OUT
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from safetensors.torch import save_file

from mmfm import distributed
from mmfm.train.engine import start_process_group
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm.types import Batch
from tests import tiny
from tests.train import thaw_worker

STEPS = 3
SGD = OptimConfig(type="sgd", lr=0.02, weight_decay=0.0, grad_clip=0.0, schedule="constant")
ADAMW = OptimConfig(lr=1e-3, weight_decay=0.01, grad_clip=0.0, schedule="constant")


@dataclasses.dataclass(frozen=True)
class Case:
    stage: int
    parts: int  # micro-batches a step
    missing: bool  # audio is left out of every second step
    optimizer: str
    few_masked: bool = False  # two slots of each stream enter the masked view

    @property
    def name(self) -> str:
        left_out = "missing" if self.missing else "all"
        few = "-few_masked" if self.few_masked else ""
        return f"stage{self.stage}-{self.parts}parts-{left_out}-{self.optimizer}{few}"


CASES = [
    Case(stage, parts, missing, optimizer)
    for stage in (0, 1, 2, 3)
    for optimizer in ("sgd", "adamw")
    for parts in ((1, 2, 4) if optimizer == "sgd" else (1, 4))
    for missing in (False, True)
]
CASES += [
    Case(stage, parts, missing, "sgd", few_masked=True)
    for stage, parts, missing in ((0, 2, False), (3, 1, True), (3, 4, False), (3, 4, True))
]


def global_batch(case: Case, step: int) -> Batch:
    batch = tiny.make_batch(step, left_out(case, step))
    if case.few_masked:
        # On two ranks four parts are half streams, so every second one has none of these samples.
        batch["masked_view"] = tiny.in_slots((0, 1))
    return batch


def left_out(case: Case, step: int) -> str | None:
    return "audio" if case.missing and step % 2 == 1 else None


def run(case: Case, tokenizer: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Losses of every step; for every step and parameter the weight before it and its gradient; the
    last weights.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    share = tiny.GLOBAL_BATCH // world_size
    trainer = Trainer(
        tiny.make_task(tokenizer, seed=0),
        TrainConfig(zero_stage=case.stage, micro_batch_size=share // case.parts),
        SGD if case.optimizer == "sgd" else ADAMW,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0}},
    )
    assert trainer.grad_cache == (case.parts > 1)
    seen: dict[str, torch.Tensor] = {}
    losses = []
    for step in range(STEPS):
        batch = global_batch(case, step)
        parts = tiny.micro_batches(batch, rank, world_size, share // case.parts)
        if case.optimizer == "sgd":
            capture(trainer, seen, step)
        losses.append(trainer.step(parts).losses)
    if case.optimizer == "sgd":
        keep_weights(trainer, seen, STEPS)
    trainer.engine.destroy()
    return losses, seen


def capture(trainer: Trainer, seen: dict[str, torch.Tensor], step: int) -> None:
    """Copy the weights before this step, and the full reduced gradients just before they are
    used.
    """
    engine = trainer.engine
    plain_step = type(engine).step
    keep_weights(trainer, seen, step)

    def capturing_step() -> None:
        if engine.is_gradient_accumulation_boundary():
            for name, parameter in engine.module.named_parameters():
                gradient = safe_get_full_grad(parameter)
                # Plain stage 0 on one rank has no gradient at all for what a step leaves out.
                full = torch.zeros_like(parameter) if gradient is None else gradient
                seen[f"gradient/{step}/{name}"] = full.detach().float().clone().contiguous()
        plain_step(engine)

    engine.step = capturing_step


def keep_weights(trainer: Trainer, seen: dict[str, torch.Tensor], step: int) -> None:
    for name, parameter in trainer.task.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        full = parameter if full is None else full
        seen[f"weight/{step}/{name}"] = full.detach().float().clone().contiguous()


def main() -> None:
    tokenizer, out = sys.argv[-2], Path(sys.argv[-1])
    torch.set_num_threads(1)
    start_process_group()
    for case in CASES:
        losses, seen = run(case, tokenizer)
        if distributed.is_main():
            (out / f"{case.name}.json").write_text(json.dumps(losses))
            if case.optimizer == "sgd":
                save_file(seen, out / f"{case.name}.safetensors")
    for thaw in thaw_worker.CASES:
        thaw_worker.run(thaw, tokenizer, out)
    distributed.barrier()
    distributed.shutdown()


if __name__ == "__main__":
    main()
