"""The optimiser and its parameter groups: no weight decay on biases, norms and other vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mmfm.train.schedule import ScheduleName


@dataclass(kw_only=True)
class OptimConfig:
    """`grad_clip`: the largest global gradient norm, 0 = no clipping. `momentum` is for sgd."""

    type: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    momentum: float = 0.0
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    schedule: ScheduleName = "cosine"
    warmup_steps: int = 0
    final_lr_factor: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr = {self.lr} must be above 0")
        for name in ("momentum", "weight_decay", "grad_clip", "warmup_steps", "final_lr_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices with decay, vectors without."""
    trainable = [p for _, p in named if p.requires_grad]
    matrices = [p for p in trainable if p.ndim >= 2]
    vectors = [p for p in trainable if p.ndim < 2]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def build_optimizer(task: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """torch's own optimiser over the trainable parameters of `task`."""
    groups = parameter_groups(task.named_parameters(), config.weight_decay)
    if not groups:
        raise ValueError("every parameter is frozen: nothing to train")
    if config.type == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    # fused: one pass over memory instead of one for each operation.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
