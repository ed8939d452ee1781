"""The state of a run by names: out of a DeepSpeed engine and back, at any ZeRO stage and on any
number of ranks.

Weights go in before the engine starts. The optimiser's state goes in after one step with learning
rate 0, which makes it; see `restore_optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from mmfm.checkpoint import Checkpoint, CheckpointError, share_of_rank
from mmfm.weights import some


def weights_part(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """This rank's part of the weights in fp32, and on rank 0 the buffers; collective."""
    module = engine.module
    named = dict(module.named_parameters())
    mine = _mine(named)
    for name, parameter in named.items():
        full = _full_weight(parameter)
        if name in mine:
            yield name, full.detach().float().cpu().clone()
    if distributed.is_main():
        for name, tensor in module.state_dict().items():
            if name not in named:
                yield name, tensor.detach().cpu().clone()


def optimizer_part(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """This rank's part of the optimiser's state, as ``parameter/key``; collective."""
    named = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}
    mine = _mine(named)
    for name, parameter in named.items():
        for key in optimizer_keys(engine):
            full = _full_state(engine, parameter, key)
            if name in mine:
                yield f"{name}/{key}", full.detach().float().cpu().clone()


def optimizer_keys(engine: Any) -> list[str]:
    """The keys of the optimiser's state that hold one number a weight."""
    return sorted({k for s in _states(engine) for k, v in s.items() if _is_per_weight(v)})


def optimizer_scalars(engine: Any) -> dict[str, float]:
    """The keys of the optimiser's state that hold one number for all, such as ``step``."""
    return {
        key: float(value)
        for state in _states(engine)
        for key, value in state.items()
        if value is not None and not _is_per_weight(value)
    }


def restore_optimizer(engine: Any, checkpoint: Checkpoint) -> None:
    """Set the optimiser's state from `checkpoint`.

    The engine must have taken a step (with learning rate 0), so that the state exists.
    CheckpointError where the checkpoint has another optimiser's state.
    """
    found = checkpoint.tensors("optimizer")
    named = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}
    keys = optimizer_keys(engine)
    wanted = {f"{name}/{key}" for name in named for key in keys}
    if wanted != set(found):
        raise CheckpointError(
            f"{checkpoint.path} holds the state of another optimiser or of other trainable "
            f"weights: it lacks {some(sorted(wanted - set(found)))} and has "
            f"{some(sorted(set(found) - wanted))} besides"
        )
    for name, parameter in named.items():
        for key in keys:
            _set_state(engine, parameter, key, found[f"{name}/{key}"])
    for state in _states(engine):
        for key, value in checkpoint.manifest["optimizer_scalars"].items():
            old = state[key]
            state[key] = old.fill_(value) if isinstance(old, Tensor) else type(old)(value)


def restore_full_weights(engine: Any, checkpoint: Checkpoint) -> None:
    """Set the fp32 weights behind bf16 or fp16 ones; those were loaded before the engine began."""
    if engine.bfloat16_enabled() or engine.fp16_enabled():
        weights = checkpoint.tensors("model")
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                _set_weight(parameter, weights[name])


LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def loss_scaler_state(engine: Any) -> dict[str, float]:
    """What decides fp16's scale of the loss; empty in other precisions."""
    if not engine.fp16_enabled():
        return {}
    return {key: getattr(engine.optimizer.loss_scaler, key) for key in LOSS_SCALER}


def set_loss_scaler(engine: Any, state: Mapping[str, float]) -> None:
    """Set (some of) what `loss_scaler_state` gave."""
    for key, value in state.items():
        setattr(engine.optimizer.loss_scaler, key, value)


def _full_weight(parameter: nn.Parameter) -> Tensor:
    """The whole parameter, in fp32 where the engine holds that; collective under ZeRO-3."""
    if parameter.requires_grad:
        full = safe_get_full_fp32_param(parameter)
        if full is not None:
            whole: Tensor = full.view(_shape(parameter))
            return whole
    elif hasattr(parameter, "ds_id"):
        with deepspeed.zero.GatheredParameters([parameter]):
            gathered: Tensor = parameter.detach().clone()
        return gathered
    return parameter


def _full_state(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    if engine.optimizer is engine.basic_optimizer:
        state: Tensor = engine.optimizer.state[parameter][key]
        return state
    return safe_get_full_optimizer_state(parameter, key).view(_shape(parameter))  # type: ignore[no-any-return]


def _set_state(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    if engine.optimizer is engine.basic_optimizer:
        engine.optimizer.state[parameter][key].copy_(value)
    elif hasattr(parameter, "ds_id"):
        safe_set_local_optimizer_state(parameter, _local(parameter, value), key)
    else:
        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def _set_weight(parameter: nn.Parameter, value: Tensor) -> None:
    if hasattr(parameter, "ds_id"):
        safe_set_local_fp32_param(parameter, _local(parameter, value))
    else:
        safe_set_full_fp32_param(parameter, value.to(parameter.device))


def _local(parameter: Any, value: Tensor) -> Tensor:
    """This rank's slice of a tensor as ZeRO-3 cuts it: flat, padded with zeros to equal parts."""
    size = parameter.ds_tensor.numel()
    padded = value.new_zeros(size * distributed.world_size())
    padded[: value.numel()] = value.flatten()
    start = size * distributed.rank()
    return padded[start : start + size].to(parameter.device)


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # type: ignore[no-any-return]


def _mine(named: dict[str, nn.Parameter]) -> set[str]:
    sizes = {name: _shape(p).numel() for name, p in named.items()}
    return set(share_of_rank(sizes, distributed.rank(), distributed.world_size()))


def _states(engine: Any) -> list[dict[str, Any]]:
    _link_states(engine)
    return [state for state in engine.basic_optimizer.state.values() if state]


def _link_states(engine: Any) -> None:
    """ZeRO 1 and 2 link parameters to the optimiser's state when the first group has taken its
    step: those of later groups, whose state comes after that, stay without, so all are linked
    again.
    """
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None and getattr(engine.optimizer, "_hp_optimizer_states_linked", False):
        engine.optimizer._hp_optimizer_states_linked = False
        link()


def _is_per_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
