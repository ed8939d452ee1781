"""The DeepSpeed configuration, derived from mmfm's own in one pure function.

Every key that affects the mathematics is written out, because some of DeepSpeed's defaults change
it (its gradient clipping is 1.0 where nothing is said). Any key can be overridden under
``deepspeed:`` in the recipe.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "fp16"]

OWNED_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def deepspeed_config(
    *,
    global_batch_size: int,
    micro_batch_size: int,
    world_size: int,
    zero_stage: int,
    precision: Precision,
    grad_clip: float,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """DeepSpeed's JSON as a mapping; ValueError for overrides of what the recipe owns."""
    for key in OWNED_KEYS:
        if key in overrides:
            raise ValueError(
                f"deepspeed.{key} follows from data.global_batch_size, train.micro_batch_size and "
                "the number of ranks; set those"
            )
    for key in ("optimizer", "scheduler"):
        if key in overrides:
            raise ValueError(f"deepspeed.{key} would be ignored: see optim for what it sets")
    for half in ("bf16", "fp16"):
        if "enabled" in (overrides.get(half) or {}):
            raise ValueError(f"deepspeed.{half}.enabled follows from train.precision; set that")
    if (overrides.get("bf16") or {}).get("immediate_grad_update") is False:
        raise ValueError(
            "deepspeed.bf16.immediate_grad_update = false would count the gradients of a step's "
            "first micro-batches several times over; leave it out"
        )
    if precision != "fp32" and zero_stage == 0:
        raise ValueError(
            f"train.precision = {precision} keeps fp32 weights and gradients in ZeRO's optimiser: "
            "set train.zero_stage to 1, 2 or 3 (also on one rank)"
        )
    config: dict[str, Any] = {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": global_batch_size // (micro_batch_size * world_size),
        "gradient_clipping": grad_clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "fp16": _fp16(precision == "fp16"),
        "bf16": _bf16(precision == "bf16"),
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_scatter": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    return _merge(config, overrides)


def _bf16(enabled: bool) -> dict[str, Any]:
    """At stage 1 DeepSpeed adds a micro-batch's gradients to the step's in fp32 after its backward,
    and clears them before the next one in a hook on the tensors that the forward returns. mmfm's
    returns an `Output`, in which it finds none, so that each would be added again with every later
    one. Where they are added in the backward itself, they are gone after it.
    """
    return {"enabled": True, "immediate_grad_update": True} if enabled else {"enabled": False}


def _fp16(enabled: bool) -> dict[str, Any]:
    """Where a gradient overflows, the step is left out and from the second time on the loss's scale
    halved, at first 2**16; after 1,000 steps without it doubles.
    """
    if not enabled:
        return {"enabled": False}
    return {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "consecutive_hysteresis": False,
        "min_loss_scale": 1,
    }


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged
