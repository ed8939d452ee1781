"""The state of a run by names: out of a DeepSpeed engine and back, at any ZeRO stage and on any
number of ranks.

Weights go in before the engine starts. The optimiser's state goes in after one step with learning
rate 0, which makes it; see `restore_optimizer`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from mmfm import distributed
from mmfm.checkpoint import Checkpoint, CheckpointError, share_of_rank
from mmfm.train.engine.pieces import (
    full_state,
    full_weight,
    held_states,
    set_state,
    set_weight,
    shape_of,
)
from mmfm.train.optim.average import EMA
from mmfm.weights import some


def weights_part(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """This rank's part of the weights in fp32, and on rank 0 the buffers; collective."""
    module = engine.module
    named = dict(module.named_parameters())
    mine = _mine(named)
    for name, parameter in named.items():
        full = full_weight(parameter)
        if name in mine:
            yield name, full.detach().float().cpu().clone()
    if distributed.is_main():
        for name, tensor in module.state_dict().items():
            if name not in named:
                yield name, tensor.detach().cpu().clone()


def optimizer_part(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """This rank's part of the optimiser's state, as ``parameter/key``; collective."""
    for key in optimizer_keys(engine):
        for name, value in _state_part(engine, key):
            yield f"{name}/{key}", value


def ema_part(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """This rank's part of the trainable weights' averages, once there are some; collective."""
    return _state_part(engine, EMA) if _keeps_average(engine) else iter(())


def _state_part(engine: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    named = _trainable(engine)
    mine = _mine(named)
    for name, parameter in named.items():
        full = full_state(engine, parameter, key)
        if name in mine:
            yield name, full.detach().float().cpu().clone()


def optimizer_keys(engine: Any) -> list[str]:
    """The keys of the optimiser's state that hold one number a weight, but the average."""
    states = [state for _, _, state in held_states(engine)]
    return sorted({k for s in states for k, v in s.items() if _is_per_weight(v)} - {EMA})


def optimizer_scalars(engine: Any) -> dict[str, float]:
    """The keys of the optimiser's state that hold one number for all, such as ``step``; for weights
    that train only since step 500 as ``500/step``.
    """
    return {
        _scalar_name(group, key): float(value)
        for group, _, state in held_states(engine)
        for key, value in state.items()
        if value is not None and not _is_per_weight(value)
    }


def restore_optimizer(engine: Any, checkpoint: Checkpoint, fresh: Collection[str] = ()) -> None:
    """Set the optimiser's state and the averages from `checkpoint`.

    The engine must have taken a step (with learning rate 0), so that the state exists. The
    parameters in `fresh` begin to train now, and lose theirs again. Averages that the checkpoint
    lacks start at the weights.

    Raises:
        CheckpointError: where the checkpoint has another optimiser's state.
    """
    found = checkpoint.tensors("optimizer")
    named, keys = _trainable(engine), optimizer_keys(engine)
    wanted = {f"{name}/{key}" for name in named if name not in fresh for key in keys}
    if wanted != set(found):
        raise CheckpointError(
            f"{checkpoint.path} holds the state of another optimiser or of other trainable "
            f"weights: it lacks {some(sorted(wanted - set(found)))} and has "
            f"{some(sorted(set(found) - wanted))} besides"
        )
    for entry in wanted:
        name, _, key = entry.rpartition("/")
        set_state(engine, named[name], key, found[entry])
    if _keeps_average(engine):
        averages = {**checkpoint.tensors("model"), **checkpoint.tensors(EMA)}
        for name, parameter in named.items():
            set_state(engine, parameter, EMA, averages[name])
    scalars = checkpoint.manifest["optimizer_scalars"]
    for group, weight, state in held_states(engine):
        if 0 < group["since"] == checkpoint.step:
            del engine.basic_optimizer.state[weight]
            continue
        for key, old in state.items():
            value = scalars.get(_scalar_name(group, key))
            if value is not None:
                state[key] = old.fill_(value) if isinstance(old, Tensor) else type(old)(value)


def _scalar_name(group: Mapping[str, Any], key: str) -> str:
    return f"{group['since']}/{key}" if group["since"] else key


def _keeps_average(engine: Any) -> bool:
    return any(EMA in state for _, _, state in held_states(engine))


def restore_full_weights(engine: Any, checkpoint: Checkpoint) -> None:
    """Set the fp32 weights behind bf16 or fp16 ones; those were loaded before the engine began."""
    if engine.bfloat16_enabled() or engine.fp16_enabled():
        weights = checkpoint.tensors("model")
        for name, parameter in engine.module.named_parameters():
            if parameter.requires_grad:
                set_weight(parameter, weights[name])


def restore_buffers(engine: Any, checkpoint: Checkpoint) -> None:
    """Set what a step moves beside the weights, such as the statistics of batch norms."""
    held, parameters = checkpoint.tensors("model"), dict(engine.module.named_parameters())
    for name, tensor in engine.module.state_dict().items():
        if name not in parameters:
            tensor.copy_(held[name])


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


def _trainable(engine: Any) -> dict[str, nn.Parameter]:
    return {n: p for n, p in engine.module.named_parameters() if p.requires_grad}


def _mine(named: dict[str, nn.Parameter]) -> set[str]:
    sizes = {name: shape_of(p).numel() for name, p in named.items()}
    return set(share_of_rank(sizes, distributed.rank(), distributed.world_size()))


def _is_per_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
