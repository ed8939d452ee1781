"""What is measured of each step: its time, its metrics row, the hash of its samples."""

from __future__ import annotations

import hashlib
import resource
import time
from typing import Any

import torch

from mmfm import distributed
from mmfm.data.mixture import progress
from mmfm.data.pipeline import Pipeline
from mmfm.model import Model
from mmfm.train.trainer import StepResult
from mmfm.types import Batch


class Clock:
    """Seconds of the last steps: how fast, and what share was waiting for data."""

    def __init__(self, global_batch_size: int) -> None:
        self.size = global_batch_size
        self.recent: list[tuple[float, float, int]] = []
        self.flops_a_step = 0.0  # this rank's
        self.peak_flops = 1.0

    def start(self) -> None:
        self._start = time.perf_counter()

    def data_is_there(self) -> None:
        self._data = time.perf_counter()

    def step_is_done(self, tokens: int = 0) -> None:
        """`tokens`: this rank's."""
        now = time.perf_counter()
        self.recent = [*self.recent[-19:], (self._data - self._start, now - self._start, tokens)]

    @property
    def seconds_a_step(self) -> float:
        return sum(total for _, total, _ in self.recent) / len(self.recent)

    @property
    def tokens_per_s(self) -> float:
        """This rank's."""
        return sum(n for *_, n in self.recent) / sum(total for _, total, _ in self.recent)

    @property
    def samples_per_s(self) -> float:
        return self.size / self.seconds_a_step

    @property
    def mfu(self) -> float:
        return self.flops_a_step / (self.seconds_a_step * self.peak_flops)

    @property
    def data_wait(self) -> float:
        total = sum(total for _, total, _ in self.recent)
        return sum(wait for wait, *_ in self.recent) / total


def metrics_row(
    step: int,
    pipeline: Pipeline,
    result: StepResult,
    micro_batches: list[Batch],
    clock: Clock,
    steps_left: int,
) -> dict[str, Any]:
    """The step's line of metrics.jsonl; collective."""
    row: dict[str, Any] = {
        "step": step,
        "samples_seen": step * pipeline.config.global_batch_size,
        "loss": result.loss,
    }
    for name, loss in result.losses.items():
        objective = f"{name.split('/')[0]}_loss"
        row[objective] = row.get(objective, 0.0) + loss
        row[f"{name}_loss"] = loss
    for name, value in result.scalars.items():
        row[name] = value
        row.setdefault(name.split("/")[-1], value)
    row |= {f"{name}_weight": weight for name, weight in result.weights.items()}
    mine = (clock.tokens_per_s, peak_memory())
    tokens, memory = zip(*distributed.all_gather_object(mine), strict=True)
    if result.loss_scale is not None:
        row |= {"loss_scale": result.loss_scale, "skipped": result.skipped}
    return {
        **row,
        "batch_hash": batch_hash(micro_batches),
        "lr": result.lr,
        "grad_norm": None if result.skipped else result.grad_norm,
        "samples_per_s": clock.samples_per_s,
        "tokens_per_s": sum(tokens),
        "data_wait": clock.data_wait,
        "mfu": clock.mfu,
        "memory_gb": max(memory) / 1e9,
        "eta_s": steps_left * clock.seconds_a_step,
        **data_row(step, pipeline),
    }


def peak_memory() -> int:
    """The most bytes that this process has held so far: of the GPU's memory, without one of main
    memory.
    """
    if distributed.on_gpu():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def count_tokens(model: Model, micro_batches: list[Batch]) -> int:
    """The tokens that the encoders make of these samples, without padding: each once, however many
    objectives read them.
    """
    count = 0
    for batch in micro_batches:
        for m in model.encoders:
            if f"{m}_tokens_mask" in batch:
                count += int(batch[f"{m}_tokens_mask"].sum())
            elif m in batch:
                count += int(model.encoder(m).token_valid(batch[m], batch.get(f"{m}_mask")).sum())
    return count


def data_row(step: int, pipeline: Pipeline) -> dict[str, Any]:
    """Samples and epochs of each source since the run's first step, and what all ranks have fetched
    since this start, where a source is at a URL; collective.
    """
    row: dict[str, Any] = {}
    for source in progress(pipeline.order, step):
        row[f"samples/{source.source}"] = source.drawn
        row[f"epochs/{source.source}"] = source.epochs
    if pipeline.fetches:
        traffic = pipeline.traffic
        mine = (traffic.bytes, traffic.retries, traffic.waited_s)
        fetched, retries, waited = map(sum, zip(*distributed.all_gather_object(mine), strict=True))
        row |= {"fetched_gb": fetched / 1e9, "fetch_retries": retries, "fetch_wait_s": waited}
    return row


def batch_hash(micro_batches: list[Batch]) -> str:
    """sha1 over the sorted sample ids of the global batch, without hard negatives: which those are
    depends on the index that was mined last, not on the order of data; collective.
    """
    mine: list[str] = []
    for batch in micro_batches:
        drawn = batch.get("negative", [False] * len(batch["sample_id"]))
        mine += [s for s, extra in zip(batch["sample_id"], drawn, strict=True) if not extra]
    everyone = sorted(s for part in distributed.all_gather_object(mine) for s in part)
    return hashlib.sha1("\n".join(everyone).encode()).hexdigest()
