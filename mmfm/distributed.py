"""The process group, without DeepSpeed: rank, world size and the few collectives that mmfm uses.

Everything works with one process and no group. The trainer lets DeepSpeed start the group; the
suites start it here from the launcher's environment variables (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
P = ParamSpec("P")


@dataclass
class Place:
    """How many of the collectives below this rank has begun, and which one it is in; `work` counts
    what it does in between that takes long: batches of an evaluation, tensors of a checkpoint.
    """

    begun: int = 0
    name: str | None = None
    work: int = 0


place = Place()


def _collective(function: Callable[P, T]) -> Callable[P, T]:
    """Keeps `place`, for whoever wants to know where a rank stands."""

    @functools.wraps(function)
    def counted(*args: P.args, **kwargs: P.kwargs) -> T:
        place.begun += 1
        place.name = function.__name__
        try:
            return function(*args, **kwargs)
        finally:
            place.name = None

    return counted


def init() -> None:
    """Start the process group where a launcher started several processes; nccl with GPUs, else
    gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if on_gpu():
            torch.cuda.set_device(local_rank())
        dist.init_process_group("nccl" if on_gpu() else "gloo")


def shutdown() -> None:
    """End the process group; leaving one open at exit aborts now and then."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_world_size() -> int:
    """The number of ranks that the launcher started, known before the group is."""
    return world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def on_gpu() -> bool:
    """Whether there is a GPU, unless ``DS_ACCELERATOR=cpu`` says to leave it: hiding it is not
    enough, since DeepSpeed's launcher shows its ranks the devices again.
    """
    return os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()


def device() -> torch.device:
    """This rank's device."""
    if on_gpu():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


@_collective
def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


@_collective
def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, in place, without gradient."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


@_collective
def all_gather_object(item: T) -> list[T]:
    """`item` of every rank, in rank order. Only for small metadata that this run made itself."""
    if world_size() == 1:
        return [item]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, item)
    return out


@_collective
def broadcast_object(item: T) -> T:
    """Rank 0's `item` on every rank."""
    if world_size() == 1:
        return item
    box: list[Any] = [item]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]


@_collective
def all_gather_rows(x: Tensor) -> Tensor:
    """Rows of every rank in rank order, without gradient; every rank must have the same shape."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    """all_gather whose backward returns to each rank the sum of all ranks' gradients for its
    rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return all_gather_rows(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # A copy: autograd may hand the same tensor to other nodes of the graph.
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        all_reduce_sum(grad)
        start = rank() * ctx.rows
        return grad[start : start + ctx.rows]


def all_gather_rows_with_grad(x: Tensor) -> Tensor:
    """Rows of every rank in rank order, differentiable: the gradient of the ranks' summed losses
    flows back.
    """
    if world_size() == 1:
        return x
    return _GatherRows.apply(x)  # type: ignore[no-any-return, no-untyped-call]
