"""What the ranks of one launch see of gradients, activations, broken numbers, a full disk and a
rank that sleeps; see test_health.py.

    deepspeed --num_gpus 2 --module tests.train.health_worker TOKENIZER OUT
"""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mmfm import checkpoint, distributed
from mmfm.checkpoint import CheckpointError, writing
from mmfm.train.engine import start_process_group
from mmfm.train.health.activations import ActivationNorms
from mmfm.train.health.nonfinite import NonFiniteError
from mmfm.train.health.watchdog import Watchdog
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import TrainConfig, Trainer
from tests import tiny

SGD = OptimConfig(type="sgd", lr=0.02, weight_decay=0.0, grad_clip=0.0, schedule="constant")
CASES = [(0, 1), (1, 2), (2, 1), (3, 2)]  # ZeRO stage, micro-batches
IN_BF16 = [(1, 1), (1, 4), (2, 4), (3, 4)]  # the same
SLEEP_S = 1000


def trainer(tokenizer: str, stage: int, parts: int, precision: str = "fp32") -> Trainer:
    share = tiny.GLOBAL_BATCH // distributed.launched_world_size()
    return Trainer(
        tiny.make_task(tokenizer),
        TrainConfig(zero_stage=stage, micro_batch_size=share // parts, precision=precision),
        SGD,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed=tiny.IN_PARTS,
    )


def batches(step: int, parts: int, batch: Any = None) -> list[Any]:
    ranks = distributed.world_size()
    batch = tiny.make_batch(step) if batch is None else batch
    return tiny.micro_batches(batch, distributed.rank(), ranks, tiny.GLOBAL_BATCH // ranks // parts)


def norms(
    tokenizer: str, stage: int, parts: int, precision: str = "fp32"
) -> list[dict[str, float]]:
    """Of two steps: gradient norms by part, activations by modality, and the whole norm."""
    one = trainer(tokenizer, stage, parts, precision)
    found = []
    for step in range(2):
        with ActivationNorms(one.task.model) as sizes:
            result = one.step(batches(step, parts))
        found.append({**result.grad_norms, **sizes.collect(), "all": result.grad_norm})
    one.engine.destroy()
    return found


def broken(tokenizer: str, stage: int, parts: int) -> dict[str, Any]:
    """The error and its report where a sample of the last rank is broken."""
    batch = tiny.make_batch(0)
    batch["audio"][-1, 3] = torch.nan
    one = trainer(tokenizer, stage, parts)
    try:
        one.step(batches(0, parts, batch))
    except NonFiniteError as error:
        return {"message": str(error), **error.report}
    finally:
        one.engine.destroy()
    raise AssertionError("nothing was noticed")


def full_disk(folder: Path) -> str:
    """What is raised where the last rank's disk is full."""

    def write(step: int) -> None:
        part = {"model": [(f"w{distributed.rank()}", torch.ones(8))]}
        checkpoint.write(folder, step, step, part, lambda _: None, {})

    write(1)
    plain = writing.save_file

    def save_file(part: Any, path: Path) -> None:
        if distributed.rank() == distributed.world_size() - 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        plain(part, path)

    writing.save_file = save_file
    try:
        write(2)
    except CheckpointError as error:
        return str(error)
    finally:
        writing.save_file = plain
    raise AssertionError("nothing was noticed")


def main() -> None:
    tokenizer, out = sys.argv[-2], Path(sys.argv[-1])
    torch.set_num_threads(1)
    start_process_group()
    found: dict[str, Any] = {}
    for stage, parts in CASES:
        found[f"norms/{stage}/{parts}"] = norms(tokenizer, stage, parts)
        found[f"broken/{stage}"] = broken(tokenizer, stage, parts)
    found["bf16"] = norms(tokenizer, 1, 4, "bf16")
    found["full_disk"] = full_disk(out / "checkpoints")
    everyone = distributed.all_gather_object(found)
    if distributed.is_main():
        (out / "found.json").write_text(json.dumps(everyone))
    with Watchdog(out, stall_s=1.5) as watchdog:
        watchdog.step = 4
        distributed.barrier()
        if distributed.rank() == 1:
            time.sleep(SLEEP_S)
        distributed.barrier()


if __name__ == "__main__":
    main()
