"""The whole weight and optimiser state of a parameter, wherever ZeRO keeps its pieces, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from mmfm import distributed
from mmfm.train.optim.average import EMA


def full_weight(parameter: nn.Parameter) -> Tensor:
    """The whole parameter, in fp32 where the engine holds that; collective under ZeRO-3."""
    if parameter.requires_grad:
        full = safe_get_full_fp32_param(parameter)
        if full is not None:
            whole: Tensor = full.view(shape_of(parameter))
            return whole
    elif hasattr(parameter, "ds_id"):
        with deepspeed.zero.GatheredParameters([parameter]):
            gathered: Tensor = parameter.detach().clone()
        return gathered
    return parameter


def full_state(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """The whole of one key of the optimiser's state; collective. `held_states` comes first."""
    if engine.optimizer is engine.basic_optimizer:
        state: Tensor = engine.optimizer.state[parameter][key]
        return state
    full: Tensor = safe_get_full_optimizer_state(parameter, key)
    return full.view(shape_of(parameter))


def set_state(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Set this rank's piece of one key of the optimiser's state from the whole."""
    if engine.optimizer is engine.basic_optimizer:
        engine.optimizer.state[parameter][key].copy_(value)
    elif hasattr(parameter, "ds_id"):
        safe_set_local_optimizer_state(parameter, _local(parameter, value), key)
    else:
        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def set_weight(parameter: nn.Parameter, value: Tensor) -> None:
    """Set this rank's piece of the fp32 weight behind a parameter from the whole."""
    if hasattr(parameter, "ds_id"):
        safe_set_local_fp32_param(parameter, _local(parameter, value))
    else:
        safe_set_full_fp32_param(parameter, value.to(parameter.device))


def held_states(engine: Any) -> Iterator[tuple[dict[str, Any], Tensor, dict[str, Any]]]:
    """(group, what the optimiser holds of its weights, the state of that) on this rank."""
    _link_states(engine)
    optimizer = engine.basic_optimizer
    flats = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    if flats is None:
        held = [(group, weight) for group in optimizer.param_groups for weight in group["params"]]
    else:  # between its steps ZeRO-3 leaves the groups empty
        group_of = engine.optimizer.sub_group_to_group_id
        held = [(optimizer.param_groups[group_of[i]], flat) for i, flat in enumerate(flats)]
    for group, weight in held:
        if optimizer.state.get(weight):
            yield group, weight, optimizer.state[weight]


@contextmanager
def averaged_weights(engine: Any) -> Iterator[None]:
    """Inside, the module's weights are their average; after it, the trained ones bit for bit."""
    pairs = [(weight, state[EMA]) for _, weight, state in held_states(engine) if EMA in state]
    _swap(pairs)
    _publish(engine)
    try:
        yield
    finally:
        _swap(pairs)
        _publish(engine)


@torch.no_grad()
def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        kept = one.detach().clone()
        one.copy_(other)
        other.copy_(kept)


def _publish(engine: Any) -> None:
    """Give the module the weights that the optimiser holds, as ZeRO does after a step."""
    zero = engine.optimizer
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        zero._partition_all_parameters()
        for i in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(i)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
    elif zero is not engine.basic_optimizer:
        zero.update_lp_params()


def _link_states(engine: Any) -> None:
    """ZeRO 1 and 2 link parameters to the optimiser's state when the first group has taken its
    step: those of later groups, whose state comes after that, stay without, so all are linked
    again.
    """
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None and getattr(engine.optimizer, "_hp_optimizer_states_linked", False):
        engine.optimizer._hp_optimizer_states_linked = False
        link()


def _local(parameter: Any, value: Tensor) -> Tensor:
    """This rank's slice of a tensor as ZeRO-3 cuts it: flat, padded with zeros to equal parts."""
    size = parameter.ds_tensor.numel()
    padded = value.new_zeros(size * distributed.world_size())
    padded[: value.numel()] = value.flatten()
    start = size * distributed.rank()
    return padded[start : start + size].to(parameter.device)


def shape_of(parameter: Any) -> torch.Size:
    """The whole parameter's shape."""
    return getattr(parameter, "ds_shape", parameter.shape)  # type: ignore[no-any-return]
