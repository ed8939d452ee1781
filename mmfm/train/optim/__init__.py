"""The optimiser: AdamW, SGD, Lion, or another that treats each weight by itself.

    optim: {type: lion, lr: 1.0e-4, betas: [0.9, 0.99], weight_decay: 1.0}
    optim: {type: torch.optim.NAdam, lr: 1.0e-3, options: {decoupled_weight_decay: true}}

ZeRO hands an optimiser flat pieces of several weights. So one that looks at a whole matrix (LAMB,
LARS, Adafactor, Muon) would train differently for every number of ranks and is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm.optim
import torch
from torch import nn

from mmfm.config import ConfigError
from mmfm.train.optim.average import EmaConfig, keep_average
from mmfm.train.optim.groups import Freeze, parameter_groups
from mmfm.train.optim.layers import Until, layers_until
from mmfm.train.optim.schedule import ScheduleName
from mmfm.train.optim.start import pull_to_start

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
BUILT_IN = ("adamw", "sgd", "lion")


@dataclass(kw_only=True)
class OptimConfig:
    """`type`: "adamw", "sgd", "lion" or the dotted name of a class, which gets `lr`, the groups'
    ``weight_decay`` and `options`. `betas` are for adamw and lion, `eps` for adamw, `momentum` for
    sgd. `grad_clip`: the largest global gradient norm, 0 = no clipping. `decay_steps` is for the
    schedule wsd. `l2_sp` takes the place of `weight_decay` in the model, see
    `mmfm.train.optim.start`. For `lr_factors` and `freeze` (until a step, or "always") see
    `mmfm.train.optim.groups`; for `layer_decay`, `top_layers` and `unfreeze_every`, by modality,
    `mmfm.train.optim.layers`; for `ema` `mmfm.train.optim.average`.
    """

    type: str = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    momentum: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.1
    l2_sp: float = 0.0
    grad_clip: float = 1.0
    schedule: ScheduleName = "cosine"
    warmup_steps: int = 0
    decay_steps: int = 0
    final_lr_factor: float = 0.0
    lr_factors: dict[str, float] = field(default_factory=dict)
    layer_decay: dict[str, float] = field(default_factory=dict)
    freeze: dict[str, Until] = field(default_factory=dict)
    top_layers: dict[str, int] = field(default_factory=dict)
    unfreeze_every: dict[str, int] = field(default_factory=dict)
    ema: EmaConfig | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr = {self.lr} must be above 0")
        not_negative = ("momentum", "weight_decay", "l2_sp", "grad_clip", "final_lr_factor")
        for name in (*not_negative, "warmup_steps", "decay_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)} must be at least 0 and below 1")
        if not self.eps > 0:
            raise ValueError(f"eps = {self.eps} must be above 0: a gradient may be 0")
        if (self.schedule == "wsd") != (self.decay_steps > 0):
            raise ValueError(
                f"schedule = {self.schedule} with decay_steps = {self.decay_steps}: wsd needs at "
                "least 1, no other schedule has any"
            )
        for part, factor in self.lr_factors.items():
            if not factor > 0:
                raise ValueError(f"lr_factors: {part} = {factor} must be above 0; see freeze")
        for modality, decay in self.layer_decay.items():
            if not 0 < decay <= 1:
                raise ValueError(f"layer_decay: {modality} = {decay} must be above 0, at most 1")
        for name in ("top_layers", "unfreeze_every"):
            for modality, number in getattr(self, name).items():
                if number < 1:
                    raise ValueError(f"{name}: {modality} = {number} must be at least 1")
        for part, step in self.freeze.items():
            if isinstance(step, int) and step < 0:
                raise ValueError(f"freeze: {part} = {step} must not be negative")
        if "." not in self.type:
            if self.type not in BUILT_IN:
                raise ValueError(
                    f"type = {self.type!r} is none of {', '.join(BUILT_IN)}; write others with "
                    "their module, such as torch.optim.NAdam"
                )
            if self.options:
                raise ValueError(f"options are for optimisers with a dotted name, not {self.type}")


def frozen_until(task: nn.Module, config: OptimConfig) -> Freeze:
    """Until when what is frozen: parts as `freeze` names them, and parameters by their layers."""
    return {**config.freeze, **layers_until(task, config.top_layers, config.unfreeze_every)}


def groups_of(task: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The groups of the trainable parameters of `task`; ConfigError where the settings don't fit
    it, or nothing is left to train.
    """
    groups = parameter_groups(
        task,
        weight_decay=config.weight_decay,
        lr_factors=config.lr_factors,
        layer_decay=config.layer_decay,
        freeze=frozen_until(task, config),
        l2_sp=config.l2_sp,
    )
    if not groups:
        raise ConfigError("every parameter is frozen: nothing to train")
    return groups


def build_optimizer(task: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters of `task`."""
    optimizer = maker(config)(groups_of(task, config))
    if config.l2_sp:
        pull_to_start(optimizer)
    if config.ema is not None:
        keep_average(optimizer)
    return optimizer


def maker(config: OptimConfig) -> Make:
    """What makes the optimiser from groups; ConfigError for one that can't be used."""
    lr = config.lr
    if config.type == "sgd":
        return lambda groups: torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
    if config.type == "lion":
        return lambda groups: timm.optim.Lion(groups, lr=lr, betas=config.betas)
    if config.type == "adamw":
        # fused: one pass over memory instead of one for each operation.
        return lambda groups: torch.optim.AdamW(
            groups, lr=lr, betas=config.betas, eps=config.eps, fused=True
        )
    cls = _import(config.type)

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = cls(groups, lr=lr, **config.options)
        return optimizer

    try:
        suits = is_elementwise(make, config.weight_decay)
    except Exception as error:  # what a class of anybody's raises
        raise ConfigError(f"optim.type: {config.type} can't be used: {error}") from None
    if not suits:
        raise ConfigError(
            f"optim.type: {config.type} does not treat each weight by itself (or makes its state "
            "before its first step): under ZeRO it would train differently for every number of "
            "ranks"
        )
    return make


def is_elementwise(make: Make, weight_decay: float) -> bool:
    """Whether three steps on a matrix and on two flat pieces of it come out the same."""
    draw = torch.Generator().manual_seed(0)
    whole = nn.Parameter(torch.randn(4, 6, generator=draw))
    sizes = [7, 17]
    pieces = [nn.Parameter(p.clone()) for p in torch.split(whole.detach().flatten(), sizes)]
    one, other = (make([{"params": p, "weight_decay": weight_decay}]) for p in ([whole], pieces))
    if one.state:
        return False
    for _ in range(3):
        whole.grad = torch.randn(4, 6, generator=draw)
        for piece, gradient in zip(pieces, torch.split(whole.grad.flatten(), sizes), strict=True):
            piece.grad = gradient.clone()
        one.step()
        other.step()
    return torch.allclose(whole.flatten(), torch.cat(list(pieces)), rtol=1e-5, atol=1e-7)


def _import(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"optim.type: there is no {name!r} ({error})") from None
