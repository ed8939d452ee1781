"""The optimiser and its groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmfm.config import ConfigError, from_dict
from mmfm.train.optim import OptimConfig, build_optimizer, parameter_groups


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = {"embed": nn.Embedding(7, 4), "linear": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}
    module = nn.ModuleDict(parts)
    module.register_parameter("log_scale", nn.Parameter(torch.zeros(1)))
    return module


def test_matrices_decay_and_vectors_do_not() -> None:
    module = net()
    module["linear"].weight.requires_grad_(False)
    groups = parameter_groups(module.named_parameters(), 0.3)
    names = {id(p): n for n, p in module.named_parameters()}
    found = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in groups}
    assert found == {
        0.3: {"embed.weight"},
        0.0: {"log_scale", "linear.bias", "norm.weight", "norm.bias"},
    }


def test_an_empty_group_is_left_out() -> None:
    groups = parameter_groups(nn.Linear(2, 2, bias=False).named_parameters(), 0.1)
    assert [g["weight_decay"] for g in groups] == [0.1]


def test_adamw_step_by_hand() -> None:
    """One step of AdamW (Loshchilov and Hutter): decay apart from the gradient."""
    module = net()
    config = OptimConfig(lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5)
    optimizer = build_optimizer(module, config)
    assert type(optimizer) is torch.optim.AdamW
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    for name, p in module.named_parameters():
        decay = 0.5 if p.ndim == 2 else 0.0
        # After one step both moments are those of the gradient alone.
        want = before[name] * (1 - 0.01 * decay) - 0.01 * 2.0 / (2.0 + 1e-3)
        torch.testing.assert_close(p.detach(), want)


def test_sgd_with_momentum_by_hand() -> None:
    module = net()
    config = OptimConfig(type="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    optimizer = build_optimizer(module, config)
    assert type(optimizer) is torch.optim.SGD
    before = module["linear"].weight.detach().clone()
    for _ in range(2):
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    torch.testing.assert_close(module["linear"].weight.detach(), before - 0.1 - 0.1 * 1.5)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="every parameter is frozen: nothing to train"):
        build_optimizer(net().requires_grad_(False), OptimConfig())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lr": 0}, r"optim: lr = 0\.0 must be above 0"),
        ({"lr": float("nan")}, "must be above 0"),
        ({"weight_decay": -0.1}, r"optim: weight_decay = -0\.1 must not be negative"),
        ({"grad_clip": -1}, "grad_clip"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"final_lr_factor": -1}, "final_lr_factor"),
        ({"momentum": -1}, "momentum"),
        ({"type": "adam"}, r"optim\.type = 'adam'"),
        ({"schedule": "linear"}, r"optim\.schedule = 'linear'"),
    ],
)
def test_bad_settings(raw, message) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(OptimConfig, raw, "optim")
