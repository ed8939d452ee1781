"""Batch norms that train: each group of a few samples is normalised by itself (ghost batch norm,
arXiv:1705.08741), so that a step is the same on any ranks and micro-batches that split no group.

    norms = GroupNorms(network, size=32)
    gather(task)                              # at the beginning of a step
    (features,) = norms(run, inputs)          # run: a group's inputs ▶ a tuple of its outputs
    settle(task)                              # at its end: what evaluation normalises with moves
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfm import distributed

MOMENTUM = 0.1
"""Of norms that have none of their own."""


class GroupNorms(nn.Module):
    """The batch norms of `network`, in training over groups of `size` samples.

    Within a step their running statistics are the mean over its groups so far; `settle` makes one
    move of the norm's own momentum of it, over all ranks and micro-batches.

    Raises:
        ValueError: where there is no batch norm, or a group is too small.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        found = _measured(network)
        if not found or size < 2:
            raise ValueError(
                f"batch_norm_size = {size}: the network has {len(found)} batch norms, and each "
                "needs at least 2 samples to measure; leave it out"
            )
        self.size = size
        self._norms = found  # a list: they are modules of the network, not of this one
        self._momenta = [MOMENTUM if norm.momentum is None else norm.momentum for norm in found]
        sizes = [len(held) for norm in found for held in _statistics(norm)]
        self._ends = list(itertools.accumulate(sizes))
        self._groups = 0
        self._kept: list[list[Tensor]] = []

    def forward(
        self, run: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """`run` on groups of `size` (or equal ones that are smaller, where it doesn't divide the
        inputs), and their outputs together. Without gradient nothing is gathered: grad_cache runs
        some views twice. Where no step has begun, each group moves the statistics by itself.
        """
        if len(inputs) < 2:
            raise ValueError(
                "batch_norm_size: a micro-batch with one sample has no statistics to normalise "
                "with; make train.micro_batch_size larger, or leave batch_norm_size out"
            )
        outputs = []
        number = min(math.ceil(len(inputs) / self.size), len(inputs) // 2)
        for group in inputs.tensor_split(number):
            if self._kept:
                self._groups += torch.is_grad_enabled()
                momentum = 1 / self._groups if torch.is_grad_enabled() else 0.0
                for norm in self._norms:
                    norm.momentum = momentum
            outputs.append(run(group))
        return tuple(map(torch.cat, zip(*outputs, strict=True)))

    def begin(self) -> None:
        """Gather the statistics of a step."""
        self._groups = 0
        self._kept = [[b.clone() for b in norm.buffers(recurse=False)] for norm in self._norms]

    @torch.no_grad()
    def end(self, moves: bool) -> None:
        """Move towards what the step's groups had on average, if it `moves`; collective."""
        seen = torch.cat([held.double() for norm in self._norms for held in _statistics(norm)])
        groups = seen.new_tensor([self._groups])
        # What no group has changed counts as nothing.
        *sums, total = distributed.all_reduce_sum(torch.cat([seen * groups, groups])).tensor_split(
            self._ends
        )
        moved = total > 0 if moves else torch.zeros_like(total, dtype=torch.bool)
        means = iter(sums)
        for norm, momentum, kept in zip(self._norms, self._momenta, self._kept, strict=True):
            norm.momentum = momentum
            for held, before in zip(norm.buffers(recurse=False), kept, strict=True):
                held.copy_(before)
            for held in _statistics(norm):
                mean = (next(means) / total.clamp(min=1)).to(held.dtype)
                # In fp16 a variance may overflow where no output does.
                usable = moved & mean.isfinite()
                held.copy_(torch.where(usable, held.lerp(mean, momentum), held))
        self._kept = []


def follow_precision(network: nn.Module) -> None:
    """Let the batch norms of `network` run where their weights are in bf16 or fp16 and their
    statistics, which no engine converts, in fp32.
    """
    for norm in _measured(network):
        if norm.affine:
            lent = _Lent()
            norm.register_forward_pre_hook(lent.before)
            norm.register_forward_hook(lent.after)


class _Lent:
    """For the time of a call a norm has its statistics in the precision of its weights."""

    def __init__(self) -> None:
        self._own: tuple[Tensor, Tensor] | None = None

    def before(self, norm: nn.Module, inputs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        own = _statistics(norm)
        if own[0].dtype != norm.weight.dtype:
            self._own = own
            norm.running_mean, norm.running_var = (one.to(norm.weight.dtype) for one in own)

    def after(self, norm: nn.Module, inputs: Any, outputs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        if self._own is None:
            return
        if norm.training:
            for own, lent in zip(self._own, _statistics(norm), strict=True):
                own.copy_(lent)
        (norm.running_mean, norm.running_var), self._own = self._own, None


def gather(task: nn.Module) -> None:
    """Before a step: the norms of `task` that train gather its statistics."""
    for norms in _of(task):
        norms.begin()


def settle(task: nn.Module, moves: bool = True) -> None:
    """After a step: what was gathered counts, unless the step was skipped; collective."""
    for norms in _of(task):
        norms.end(moves)


def trains_norms(task: nn.Module) -> bool:
    """Whether `task` has batch norms that train."""
    return bool(_of(task))


def _of(task: nn.Module) -> list[GroupNorms]:
    return [part for part in task.modules() if isinstance(part, GroupNorms)]


def _measured(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep statistics; others see each batch by itself in evaluation too."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None, "only norms of _measured come here"
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
