"""The optimiser and its groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmfm.config import ConfigError, from_dict
from mmfm.train.optim import OptimConfig, build_optimizer
from mmfm.train.optim.average import EmaConfig


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = {"embed": nn.Embedding(7, 4), "linear": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}
    module = nn.ModuleDict(parts)
    module.register_parameter("log_scale", nn.Parameter(torch.zeros(1)))
    return module


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
        ({"lr": float("nan")}, r"optim\.lr = nan: a finite number is needed"),
        ({"betas": [0.9, 1.5]}, r"betas = \[0\.9, 1\.5\] must be at least 0 and below 1"),
        ({"eps": 0}, r"eps = 0\.0 must be above 0"),
        ({"weight_decay": -0.1}, r"optim: weight_decay = -0\.1 must not be negative"),
        ({"grad_clip": -1}, "grad_clip"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"final_lr_factor": -1}, "final_lr_factor"),
        ({"momentum": -1}, "momentum"),
        ({"decay_steps": -1}, "decay_steps"),
        ({"schedule": "wsd"}, "wsd needs at least 1"),
        ({"decay_steps": 5}, "schedule = cosine with decay_steps = 5"),
        ({"lr_factors": {"model": 0}}, r"lr_factors: model = 0\.0 must be above 0"),
        ({"layer_decay": {"image": 1.5}}, r"layer_decay: image = 1\.5"),
        ({"l2_sp": -0.1}, r"optim: l2_sp = -0\.1 must not be negative"),
        ({"top_layers": {"text": 0}}, r"top_layers: text = 0 must be at least 1"),
        ({"unfreeze_every": {"text": 0}}, r"unfreeze_every: text = 0 must be at least 1"),
        ({"freeze": {"model": -1}}, "freeze: model = -1"),
        ({"freeze": {"model": "never"}}, r"optim\.freeze\.model = 'never'"),
        ({"ema": {"decay": 1.0}}, r"optim\.ema: decay = 1\.0"),
        ({"type": "adam"}, "type = 'adam' is none of adamw, sgd, lion"),
        ({"options": {"eps": 1}}, "options are for optimisers with a dotted name"),
        ({"schedule": "linear"}, r"optim\.schedule = 'linear'"),
    ],
)
def test_bad_settings(raw, message) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(OptimConfig, raw, "optim")


def test_lion_step_by_hand() -> None:
    """Chen et al. 2023, algorithm 2: the sign of the interpolated gradient, decay apart from it."""
    module = net()
    config = OptimConfig(type="lion", lr=0.01, betas=(0.9, 0.5), weight_decay=0.5)
    optimizer = build_optimizer(module, config)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.full_like(p, -2.0)
    optimizer.step()
    for name, p in module.named_parameters():
        decay = 0.5 if p.ndim == 2 else 0.0
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.01 * decay) + 0.01)
        assert set(optimizer.state[p]) == {"exp_avg"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torch.optim.NAdam", {"decoupled_weight_decay": True}),
        ("torch.optim.RAdam", {}),
        ("torch.optim.RMSprop", {"alpha": 0.9}),
        ("timm.optim.NAdamW", {}),
    ],
)
def test_optimiser_by_dotted_name(name: str, options) -> None:
    config = OptimConfig(type=name, lr=0.01, weight_decay=0.3, options=options)
    optimizer = build_optimizer(net(), config)
    assert f"{type(optimizer).__module__}.{type(optimizer).__name__}".endswith(name.split(".")[-1])
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.3]
    assert all(g[key] == value for key, value in options.items() for g in optimizer.param_groups)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm.optim.Lamb", "does not treat each weight by itself"),
        ("timm.optim.Lars", "does not treat each weight by itself"),
        ("timm.optim.Muon", "does not treat each weight by itself"),
        ("torch.optim.Muon", "can't be used"),
        ("torch.optim.Adafactor", "does not treat each weight by itself"),
        ("torch.optim.Adagrad", "makes its state before its first step"),
        ("torch.optim.LBFGS", "can't be used"),
        ("torch.optim.Adamm", "there is no 'torch.optim.Adamm'"),
        ("nowhere.Adam", "there is no 'nowhere.Adam'"),
    ],
)
def test_optimisers_that_look_at_whole_tensors_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(net(), OptimConfig(type=name, lr=0.01, weight_decay=0.1))


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lion"])
def test_average_follows_every_step_and_changes_nothing_else(kind: str) -> None:
    """Against torch's own averaged model."""
    plain, module = net(), net()
    config = {"type": kind, "lr": 0.1}
    one = build_optimizer(plain, OptimConfig(**config))
    two = build_optimizer(module, OptimConfig(**config, ema=EmaConfig()))
    want = torch.optim.swa_utils.AveragedModel(
        plain, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
    )
    want.update_parameters(plain)  # its first call copies
    for step in range(4):
        for p, q in zip(plain.parameters(), module.parameters(), strict=True):
            p.grad = q.grad = torch.full_like(p, float(step - 1))
        for group in two.param_groups:
            group["ema_decay"] = 0.75
        one.step()
        two.step()
        want.update_parameters(plain)
    averages = dict(want.module.named_parameters())
    for (name, p), q in zip(plain.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(p, q), name
        torch.testing.assert_close(two.state[q]["ema"], averages[name].detach())


def test_decay_of_the_average_warms_up() -> None:
    assert [EmaConfig(decay=0.9).decay_at(s) for s in (0, 8, 80, 81)] == [0.1, 0.5, 0.9, 0.9]
    assert EmaConfig(decay=0.9, warmup=False).decay_at(0) == 0.9
