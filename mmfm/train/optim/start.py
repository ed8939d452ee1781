"""L2-SP: weights of a pretrained model are drawn to where they started, not to zero (Li et al.
2018, arXiv:1802.01483).

    optim: {l2_sp: 0.01}

As AdamW's decay it stands apart from the gradient: before each step a weight moves to its start by
lr · l2_sp of the distance. The start is a key of the optimiser's state beside its moments, so it is
cut up by ZeRO, saved and restored like those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfm.train.optim.average import held

START = "start"


def pull_to_start(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of `optimizer` begin with the pull by ``l2_sp`` of each group.

    A weight starts where it is before its first step.
    """
    first: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def before(*_: Any) -> None:
        for group, weight in held(optimizer):
            start = optimizer.state.get(weight, {}).get(START)
            if start is None:
                first[weight] = weight.detach().clone()
            elif group["l2_sp"]:
                weight.lerp_(start, group["lr"] * group["l2_sp"])

    def after(*_: Any) -> None:
        for _group, weight in held(optimizer):
            if weight in first:  # not before the step: optimisers begin where the state is empty
                optimizer.state[weight][START] = first.pop(weight)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
