"""The DeepSpeed engine: started from a plain configuration, and the few places where ZeRO needs
care.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.comm
import deepspeed.ops
import deepspeed.runtime.bf16_optimizer
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.utils import logger as deepspeed_logger
from torch import nn

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm.train.engine import reuse
from mmfm.train.optim import OptimConfig, build_optimizer

deepspeed_logger.setLevel(logging.WARNING)
# Its all-reduce through shared memory is compiled at first use, which takes a compiler and a
# minute; gloo is there.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
# It prints the memory in use at each of its steps, whatever the level of its log.
deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda message, force=False: None
reuse.install()


def start_process_group() -> None:
    """Start the process group through DeepSpeed, also for one process."""
    if not torch.distributed.is_initialized():
        for key, value in _ONE_PROCESS.items():
            os.environ.setdefault(key, value)
        if distributed.on_gpu():
            torch.cuda.set_device(distributed.device())
        backend = "nccl" if distributed.on_gpu() else "gloo"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def end_process_group() -> None:
    """End the process group, and DeepSpeed's references to it, so that another one can start."""
    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    distributed.shutdown()


_ONE_PROCESS = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}


def check_config(config: Mapping[str, Any]) -> None:
    """ValueError where DeepSpeed or the device can't do what `config` asks; needs no process
    group.
    """
    share = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    batch = {"train_batch_size": share * distributed.world_size()}  # without a group of one rank
    try:
        read = DeepSpeedConfig({**copy.deepcopy(config), **batch})
    except Exception as error:  # pydantic's, assertions, or a TypeError for what is no mapping
        raise ConfigError(f"deepspeed: {error}") from None
    if read.float16_config.enabled and not get_accelerator().is_fp16_supported():
        raise ValueError("train.precision = fp16: this device has no fp16; use bf16 or fp32")


def start_engine(task: nn.Module, optim: OptimConfig, config: dict[str, Any]) -> Any:
    """`task` on a DeepSpeed engine; its parameters must be equal on all ranks or rank 0's count."""
    check_config(config)
    start_process_group()
    task = task.to(distributed.device())
    optimizer = build_optimizer(task, optim)
    with _compiling_nothing():
        engine, *_ = deepspeed.initialize(model=task, optimizer=optimizer, config=config)
    if engine.fp16_enabled():  # it would stop the run with a plain Exception; see step_was_skipped
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    return engine


@contextmanager
def _compiling_nothing() -> Iterator[None]:
    """Whichever the optimiser, DeepSpeed imports its Muon, whose functions are set up for torch's
    compiler on import: that would import all of it, which takes each rank seconds.
    """
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_COMPILER]
        if before is not None:
            os.environ[_NO_COMPILER] = before


_NO_COMPILER = "TORCHDYNAMO_DISABLE"


def loss_scale(engine: Any) -> float | None:
    """What fp16 multiplies the loss with; None in other precisions."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else None


def step_was_skipped(engine: Any) -> bool:
    """Whether the last step was left out, because fp16 gradients overflowed; ValueError where they
    do so at the smallest scale of the loss.
    """
    if not engine.fp16_enabled() or engine.was_step_applied():
        return False
    scaler = engine.optimizer.loss_scaler
    if scaler.cur_scale <= scaler.min_scale:
        raise ValueError(
            "fp16 gradients overflow at the smallest scale of the loss: lower optim.lr, or use "
            "train.precision=bf16"
        )
    return True


def zero_stale_gradients(engine: Any) -> None:
    """Before a step's first backward: ZeRO-3 would otherwise update a module that this step leaves
    out with the gradient of the step before.
    """
    buffer = getattr(engine.optimizer, "grad_partitions_flat_buffer", None)
    if buffer is not None:
        buffer.zero_()
