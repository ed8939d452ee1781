"""The exponential moving average of the weights, in fp32 at every precision and ZeRO stage.

    optim: {ema: {decay: 0.9999, warmup: true, evaluate: true}}

The average is a key of the optimiser's state, beside its moments: it follows whatever the optimiser
holds (flat fp32 pieces under ZeRO), in the same step, and never where a step is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EMA = "ema"


@dataclass(kw_only=True)
class EmaConfig:
    """`warmup`: begin with a small decay, as the first weights are far off. `evaluate`: the
    evaluations during training judge the average.
    """

    decay: float = 0.9999
    warmup: bool = True
    evaluate: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay = {self.decay} must be at least 0 and below 1")

    def decay_at(self, step: int) -> float:
        """The share of the old average that `step` (from 0) keeps."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


def keep_average(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of `optimizer` move the averages by ``ema_decay`` of their group.

    An average starts at the weight before its first step.
    """
    started: dict[Tensor, Tensor] = {}

    def before(*_: Any) -> None:
        for _group, weight in held(optimizer):
            if EMA not in optimizer.state.get(weight, {}):
                started[weight] = weight.detach().clone()

    def after(*_: Any) -> None:
        for group, weight in held(optimizer):
            state = optimizer.state[weight]
            if weight in started:  # not before the step: optimisers begin where the state is empty
                state[EMA] = started.pop(weight)
            state[EMA].lerp_(weight.detach(), 1 - group["ema_decay"])

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def held(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """(group, weight) of all that `optimizer` holds."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            yield group, weight
