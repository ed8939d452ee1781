"""How much of the device's arithmetic a step uses: FLOPs over those of a matrix product.

Counted are the products of linear layers and convolutions: the forward, twice more for the backward
of what trains, and each pass of what is frozen; not attention's own products, nor what grad_cache
runs a second time of what trains (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from mmfm.layers.tied import TiedLinear


class FlopCounter:
    """Counts while it is entered; leaves the numbers that the model computes untouched."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.flops = 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> FlopCounter:
        for part in self.module.modules():
            if isinstance(part, nn.Linear | TiedLinear | nn.modules.conv._ConvNd):
                self._hooks.append(part.register_forward_hook(self._count))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _count(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled() and self.module.training and not frozen(part):
            return
        if isinstance(part, nn.modules.conv._ConvNd):
            products = part.in_channels // part.groups * torch.Size(part.kernel_size).numel()
        else:
            assert isinstance(part, nn.Linear | TiedLinear)
            products = part.in_features
        self.flops += 2.0 * output.numel() * products * (3 if output.requires_grad else 1)


def frozen(part: nn.Module) -> bool:
    return not any(p.requires_grad for p in part.parameters())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain square matrix product on `device`, measured: the best of five."""
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=dtype)  # equal numbers would be faster
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best
