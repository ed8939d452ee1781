"""The gradients of a step as a rank holds them between the last backward and the optimiser's step:
whole at stage 0, its part of each under ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from deepspeed.utils import safe_get_local_grad
from torch import Tensor, nn

from mmfm import distributed


def part_of(name: str) -> str:
    """The part of the task that a parameter belongs to: ``model.encoders.image``, ``model.fusion``,
    ``objectives.contrastive``.
    """
    words = name.split(".")
    return ".".join(words[: 3 if words[1] == "encoders" else 2])


def local_gradients(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """(parameter, this rank's part of its gradient), flat; none where it has none of it."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            gradient = _local(engine, parameter)
            if gradient is not None and gradient.numel():
                yield name, gradient.detach().flatten()


def squared_norms(engine: Any) -> dict[str, Tensor]:
    """Part of the task ▶ the squared norm of this rank's gradients, in double: the sum over all
    ranks is that of the whole gradient. The same parts on every rank.
    """
    parts: dict[str, list[Tensor]] = {
        part_of(name): [] for name, p in engine.module.named_parameters() if p.requires_grad
    }
    if not is_whole(engine) or distributed.is_main():
        for name, gradient in local_gradients(engine):
            parts[part_of(name)].append(gradient)
    zero = torch.zeros((), dtype=torch.float64, device=engine.device)
    sums = [
        torch.stack(torch._foreach_norm(found)).double().square().sum() if found else zero
        for found in parts.values()
    ]
    return dict(zip(parts, sums, strict=True))


def is_whole(engine: Any) -> bool:
    """Whether every rank holds all of every gradient."""
    return not engine.zero_optimization() and not engine.bfloat16_enabled()


def _local(engine: Any, parameter: nn.Parameter) -> Tensor | None:
    if is_whole(engine):
        return parameter.grad
    held: Any = parameter  # DeepSpeed adds to it
    if hasattr(held, "ds_id"):
        gradient: Tensor = safe_get_local_grad(held)
        rest = held.ds_numel - distributed.rank() * gradient.numel()
        return gradient.flatten()[: max(0, rest)]  # without the padding of the last part
    mapping = held._hp_mapping
    if mapping is None:
        return None
    fragment: Tensor = mapping.get_lp_grad_fragment(held._index_in_param_group).flatten()
    if fragment.numel() == held.numel():
        place = mapping.lp_fragment_address
        return fragment.narrow(0, place.start, place.numel)
    return fragment
