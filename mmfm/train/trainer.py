"""One training step on a DeepSpeed engine, exact for any number of ranks, micro-batches and ZeRO
stage.

    trainer = Trainer(task, TrainConfig(), OptimConfig(), global_batch_size=256, seed=0)
    for micro_batches in pipeline:
        result = trainer.step(micro_batches)

The trainer knows no modality and no objective. Losses are sums over a global count that is known
before the first backward; DeepSpeed averages gradients over ranks and micro-batches, so each loss
is scaled by their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mmfm import distributed
from mmfm.layers.batch_norms import gather, settle
from mmfm.layers.recompute import recompute_activations
from mmfm.masking import mix_ints
from mmfm.task import StepRows, Task, above_zero
from mmfm.train.engine import (
    loss_scale,
    start_engine,
    step_was_skipped,
    zero_stale_gradients,
)
from mmfm.train.engine.deepspeed_config import Precision, deepspeed_config
from mmfm.train.engine.gradients import is_whole, squared_norms
from mmfm.train.grad_cache import cached_gradients
from mmfm.train.health.alarms import AlarmConfig
from mmfm.train.health.nonfinite import raise_nonfinite
from mmfm.train.judging.best import KeepBest
from mmfm.train.optim import OptimConfig
from mmfm.train.optim.schedule import lr_factor
from mmfm.types import Batch, to_device


@dataclass(kw_only=True)
class TrainConfig:
    """`epochs`: in place of `max_steps`, how often the run goes through its samples; see
    `mmfm.train.epochs`. `micro_batch_size`: samples a rank a forward, null = its whole share.
    `grad_cache`: "auto" is on when there is more than one micro-batch and an objective that
    compares all samples; false needs `micro_batch_negatives` then, by which each micro-batch is
    compared within itself only. `log_norms`: gradient norms and sizes of activations by part in
    metrics.jsonl. `stall_s`: a run that stands still for so many seconds tells where, and ends
    after as many again (0: never). `recompute_activations`: less memory for about a third more
    time, the same gradients. `keep_best`, `patience`: see `mmfm.train.judging.best`.
    """

    max_steps: int = 1000
    epochs: float | None = None
    micro_batch_size: int | None = None
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Precision = "fp32"
    grad_cache: Literal["auto"] | bool = "auto"
    micro_batch_negatives: bool = False
    recompute_activations: bool = False
    save_every: int = 500
    keep_checkpoints: int = 2
    keep_best: KeepBest | None = None
    patience: int | None = None
    eval_every: int = 500
    log_every: int = 1
    log_norms: bool = False
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    stall_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_steps", "save_every", "eval_every", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.patience is not None and (self.patience < 1 or self.keep_best is None):
            raise ValueError(
                f"patience = {self.patience} needs a positive number of evaluations, and in "
                "keep_best the score that they must better"
            )
        if self.stall_s < 0:
            raise ValueError(f"stall_s = {self.stall_s} must not be negative")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size = {self.micro_batch_size} must be at least 1")

    def uses_grad_cache(self, compares: bool, grad_accum_steps: int) -> bool:
        """Whether a step runs with grad_cache where an objective `compares` all its samples;
        ValueError where accumulation would quietly cut the negatives.
        """
        if self.grad_cache != "auto" and not self.grad_cache:
            if compares and grad_accum_steps > 1 and not self.micro_batch_negatives:
                raise ValueError(
                    "train.grad_cache = false with several micro-batches leaves each sample only "
                    "the negatives of its own micro-batch; set train.grad_cache=auto, or "
                    "train.micro_batch_negatives=true to accept that"
                )
            return False
        return compares and (self.grad_cache is True or grad_accum_steps > 1)


@dataclass
class StepResult:
    """`loss` and `losses` are means over the global batch; `grad_norm` is before clipping,
    `grad_norms` those of its parts (see `part_of`; none if skipped); `scalars` are values of the
    objectives' own parameters, such as ``contrastive/logit_scale``, before the step. `skipped`:
    fp16 gradients overflowed, and nothing was changed but the scale of the loss; `loss_scale` is
    that of the next step, None in other precisions. `weights`: of the objectives whose weight
    varies.
    """

    loss: float
    losses: dict[str, float]
    scalars: dict[str, float]
    grad_norm: float
    grad_norms: dict[str, float]
    lr: float
    skipped: bool = False
    loss_scale: float | None = None
    weights: dict[str, float] = field(default_factory=dict)


class Trainer:
    """A task on a DeepSpeed engine."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        optim: OptimConfig,
        *,
        global_batch_size: int,
        seed: int,
        deepspeed: dict[str, Any] | None = None,
    ) -> None:
        world_size = distributed.launched_world_size()
        share = global_batch_size // world_size
        micro_batch_size = config.micro_batch_size or share
        if global_batch_size % world_size or share % micro_batch_size:
            raise ValueError(
                f"data.global_batch_size = {global_batch_size} on {world_size} ranks is "
                f"{global_batch_size / world_size:g} samples a rank, not a multiple "
                f"of train.micro_batch_size = {micro_batch_size}"
            )
        self.grad_accum_steps = share // micro_batch_size
        self.grad_cache = config.uses_grad_cache(bool(task.cached), self.grad_accum_steps)
        self.config, self.optim, self.seed = config, optim, seed
        self.step_index = 0
        if config.recompute_activations:
            recompute_activations(task)
        self.engine = start_engine(
            task,
            optim,
            deepspeed_config(
                global_batch_size=global_batch_size,
                micro_batch_size=micro_batch_size,
                world_size=world_size,
                zero_stage=config.zero_stage,
                precision=config.precision,
                grad_clip=optim.grad_clip,
                overrides=deepspeed or {},
            ),
        )

    @property
    def task(self) -> Task:
        return self.engine.module  # type: ignore[no-any-return]

    def step(self, micro_batches: list[Batch], lr: float | None = None) -> StepResult:
        """Train on all of this rank's micro-batches of one step; `lr` replaces the schedule's."""
        assert len(micro_batches) == self.grad_accum_steps, "the engine's accumulation is fixed"
        lr = self._set_lr(lr)
        self.task.set_step(self.step_index)
        self.engine.train()
        batches = [self._place(b, i) for i, b in enumerate(micro_batches)]
        counts = self._global_counts(batches)
        zero = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        sums = dict.fromkeys(counts, zero)
        zero_stale_gradients(self.engine)
        gather(self.task)
        scalars: StepRows = {}
        gradients = None
        if self.grad_cache:
            gradients = cached_gradients(self.engine, batches, counts, sums, scalars)
        for i, batch in enumerate(batches):
            output = self.engine(batch, gradients=gradients[i] if gradients else None)
            loss = self.task.total(output.losses, counts)
            if output.surrogate is not None:
                loss = loss + output.surrogate
            if not loss.requires_grad:  # the same on all ranks, which have the same strata
                raise ValueError(
                    f"step {self.step_index + 1} has nothing to learn from: none of its samples "
                    "has what an objective reads; leave out sources without that, or set "
                    "data.allow_rare_strata=false and follow what it says"
                )
            scalars.update(output.scalars)
            self.engine.backward(loss * (distributed.world_size() * self.grad_accum_steps))
            for name, (total, _) in output.losses.items():
                sums[name] = sums[name] + total.detach()
            if i == len(batches) - 1:
                losses, norms = self._reduced(sums, counts)
                checked = losses if self.engine.fp16_enabled() else losses | norms
                if not all(map(math.isfinite, checked.values())):
                    raise_nonfinite(self.engine, self.step_index + 1, batches, gradients, losses)
            self.engine.step()
        settle(self.task, moves=not step_was_skipped(self.engine))
        self.step_index += 1
        # Stage 0 in fp32 runs the plain optimiser, which knows no gradient norm.
        whole = is_whole(self.engine)
        grad_norm = math.hypot(*norms.values()) if whole else self.engine.get_global_grad_norm()
        return self._result(losses, norms, scalars, float(grad_norm), lr)

    def _place(self, batch: Batch, micro_batch: int) -> Batch:
        seed = mix_ints(self.seed, self.step_index, distributed.rank(), micro_batch)
        return self.task.prepare({**to_device(batch, self.engine.device), "dropout_seed": seed})

    def _global_counts(self, batches: list[Batch]) -> dict[str, Tensor]:
        local = [self.task.counts(batch) for batch in batches]
        names = list(local[0])
        totals = torch.stack([torch.stack([c[name] for c in local]).sum() for name in names])
        distributed.all_reduce_sum(totals)
        return dict(zip(names, totals, strict=True))

    def _set_lr(self, lr: float | None) -> float:
        if lr is None:
            lr = self.optim.lr * lr_factor(
                self.optim.schedule,
                self.step_index,
                self.config.max_steps,
                self.optim.warmup_steps,
                self.optim.final_lr_factor,
                self.optim.decay_steps,
            )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
            if self.optim.ema is not None:
                group["ema_decay"] = self.optim.ema.decay_at(self.step_index)
        return lr

    def _reduced(
        self, sums: dict[str, Tensor], counts: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The losses, and the gradient norm of each part of the task, over all ranks.

        fp16 gradients may overflow: DeepSpeed then skips the step.
        """
        squares = squared_norms(self.engine)
        totals = distributed.all_reduce_sum(torch.stack([*sums.values(), *squares.values()]))
        totals[: len(sums)] /= above_zero(torch.stack([counts[name] for name in sums]))
        found = totals.tolist()  # the one time that a step waits for the device
        scale = loss_scale(self.engine) or 1.0
        norms = [math.sqrt(square) / scale for square in found[len(sums) :]]
        return dict(zip(sums, found, strict=False)), dict(zip(squares, norms, strict=True))

    def _result(
        self,
        losses: dict[str, float],
        norms: dict[str, float],
        scalars: StepRows,
        grad_norm: float,
        lr: float,
    ) -> StepResult:
        loss = math.fsum(self.task.weights[n.split("/")[0]] * v for n, v in losses.items())
        values = {
            f"{name}/{key}": float(value.detach())
            for name, found in scalars.items()
            for key, value in found.items()
        }
        skipped = step_was_skipped(self.engine)
        return StepResult(
            loss,
            losses,
            values,
            grad_norm,
            {} if skipped else norms,
            lr,
            skipped=skipped,
            loss_scale=loss_scale(self.engine),
            weights={name: self.task.weights[name] for name in self.task.weight_at},
        )
