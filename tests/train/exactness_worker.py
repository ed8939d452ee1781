"""Train the tiny model in every case of the equality matrix, in one process group; see
test_exactness.py and, for the whole matrix, benchmarks/equality_matrix.py.

    deepspeed --num_gpus 2 --module tests.train.exactness_worker [thaw] TOKENIZER TEACHER CASES OUT
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from safetensors.torch import save_file

from mmfm import distributed
from mmfm.task import PretrainTask
from mmfm.train.engine import start_process_group
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm.types import Batch
from tests import tiny
from tests.train import adapt_worker, thaw_worker

STEPS = 3
STILL = 2  # steps with learning rate 0 before them, whose gradients are those of the first weights
SGD = OptimConfig(type="sgd", lr=0.01, weight_decay=0.0, grad_clip=0.0, schedule="constant")
ADAMW = OptimConfig(lr=1e-3, weight_decay=0.01, grad_clip=0.0, schedule="constant")
EVERY = "every"


@dataclasses.dataclass(frozen=True)
class Case:
    stage: int
    parts: int  # micro-batches a step
    missing: bool  # audio is left out of every second step
    optimizer: str
    objective: str = EVERY  # trained alone, or every one together
    few_masked: bool = False  # two slots of each stream enter the masked view
    recompute: bool = False

    @property
    def name(self) -> str:
        words = [f"stage{self.stage}", f"{self.parts}parts", "missing" if self.missing else "all"]
        words += [self.optimizer, self.objective]
        words += [word for word in ("few_masked", "recompute") if getattr(self, word)]
        return "-".join(words)

    @property
    def recipe(self) -> tuple[bool, str, str, bool]:
        """What the plain run depends on."""
        return self.missing, self.optimizer, self.objective, self.few_masked


# Each stage with and without grad_cache, a modality missing, both optimisers.
ON_TWO_RANKS = [
    Case(0, 1, False, "sgd"),
    Case(0, 4, True, "sgd", few_masked=True),
    Case(1, 2, True, "sgd"),
    Case(1, 4, False, "adamw"),
    Case(2, 4, True, "sgd", recompute=True),
    Case(2, 1, True, "adamw"),
    Case(3, 2, True, "sgd", few_masked=True, recompute=True),
    Case(3, 1, False, "adamw"),
]
ON_ONE_RANK = [
    Case(0, 1, True, "adamw"),
    Case(0, 2, True, "sgd"),
    Case(1, 4, True, "sgd"),
    Case(2, 2, False, "sgd"),
    Case(3, 2, True, "sgd"),
]
SOME = {1: ON_ONE_RANK, 2: ON_TWO_RANKS}
OF_AUDIO = ("masked_audio", "embedding")  # alone they have nothing to learn from without it


def all_cases(objectives: list[str]) -> list[Case]:
    """The whole matrix of one number of ranks."""
    return [
        Case(stage, parts, missing, optimizer, objective)
        for objective in (EVERY, *objectives)
        for stage, parts, missing, optimizer in itertools.product(
            (0, 1, 2, 3), (1, 2, 4), (False, True), ("sgd", "adamw")
        )
        if not (missing and objective in OF_AUDIO)
    ]


def task_of(case: Case, tokenizer: str, teacher: str) -> PretrainTask:
    """The task of a case, with weights that are the same in all cases."""
    task = tiny.make_task(tokenizer, seed=0, teacher=teacher)
    if case.objective == EVERY:
        return task
    chosen = task.objectives[case.objective]
    return PretrainTask(task.model, {case.objective: (chosen, task.weights[case.objective])})


def global_batch(few_masked: bool, missing: bool, step: int) -> Batch:
    batch = tiny.make_batch(step, "audio" if missing and step % 2 == 1 else None)
    if few_masked:
        batch["masked_view"] = tiny.in_slots((0, 1))
    return batch


def run(
    case: Case, tokenizer: str, teacher: str
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Losses of every step; under SGD the gradients of the still steps and the last weights."""
    rank, world_size = distributed.rank(), distributed.world_size()
    share = tiny.GLOBAL_BATCH // world_size
    size = share // case.parts
    trainer = Trainer(
        task_of(case, tokenizer, teacher),
        TrainConfig(
            zero_stage=case.stage, micro_batch_size=size, recompute_activations=case.recompute
        ),
        SGD if case.optimizer == "sgd" else ADAMW,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed=tiny.IN_PARTS,
    )
    assert trainer.grad_cache == (case.parts > 1 and bool(trainer.task.cached))
    seen: dict[str, torch.Tensor] = {}

    def step(number: int, lr: float | None = None) -> dict[str, float]:
        batch = global_batch(case.few_masked, case.missing, number)
        return trainer.step(tiny.micro_batches(batch, rank, world_size, size), lr).losses

    if case.optimizer == "sgd":
        plain_step = trainer.engine.step
        for number in range(STILL):
            capture(trainer, seen, number)
            step(number, lr=0.0)
        trainer.engine.step = plain_step
    losses = [step(number) for number in range(STEPS)]
    if case.optimizer == "sgd":
        seen |= {f"weight/{name}": weight for name, weight in weights(trainer)}
    trainer.engine.destroy()
    return losses, seen


def capture(trainer: Trainer, seen: dict[str, torch.Tensor], step: int) -> None:
    """Copy the full reduced gradients of the next step, just before they are used."""
    engine = trainer.engine
    plain_step = type(engine).step

    def capturing_step() -> None:
        if engine.is_gradient_accumulation_boundary():
            for name, parameter in engine.module.named_parameters():
                gradient = safe_get_full_grad(parameter)
                # Plain stage 0 on one rank has no gradient at all for what a step leaves out.
                full = torch.zeros_like(parameter) if gradient is None else gradient
                seen[f"gradient/{step}/{name}"] = full.detach().float().clone().contiguous()
        plain_step(engine)

    engine.step = capturing_step


def weights(trainer: Trainer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in trainer.task.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        full = parameter if full is None else full
        yield name, full.detach().float().clone().contiguous()


def main() -> None:
    tokenizer, teacher, cases, out = sys.argv[-4:]
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in fp32 proper
    start_process_group()
    for case in (Case(**given) for given in json.loads(Path(cases).read_text())):
        losses, seen = run(case, tokenizer, teacher)
        if distributed.is_main():
            Path(out, f"{case.name}.json").write_text(json.dumps(losses))
            if seen:
                save_file(seen, Path(out, f"{case.name}.safetensors"))
    if "thaw" in sys.argv:
        for thaw in thaw_worker.CASES:
            thaw_worker.run(thaw, tokenizer, Path(out))
        for stage in adapt_worker.STAGES:
            adapt_worker.run(stage, tokenizer, Path(out))
    assert "torch._inductor.compile_fx" not in sys.modules, "an engine needs no compiler"
    assert "TORCHDYNAMO_DISABLE" not in os.environ
    distributed.barrier()
    distributed.shutdown()


if __name__ == "__main__":
    main()
