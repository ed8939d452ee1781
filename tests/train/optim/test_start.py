"""L2-SP against a plain loop that writes it down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmfm.train.optim import OptimConfig, build_optimizer

LR, PULL, DECAY = 0.1, 0.3, 0.2


def task() -> nn.ModuleDict:
    torch.manual_seed(0)
    model = nn.ModuleDict({"linear": nn.Linear(4, 3), "norm": nn.LayerNorm(3)})
    return nn.ModuleDict({"model": model, "head": nn.Linear(3, 2)}).double()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_model_is_drawn_to_its_start_and_the_rest_to_zero(kind: str) -> None:
    module = task()
    config = OptimConfig(
        type=kind, lr=LR, l2_sp=PULL, weight_decay=DECAY, betas=(0.8, 0.9), eps=1e-3
    )
    optimizer = build_optimizer(module, config)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    want = {n: p.detach().clone() for n, p in module.named_parameters()}
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in module.named_parameters()}
    for step in range(1, 5):
        lr = LR / step
        for group in optimizer.param_groups:
            group["lr"] = lr
        for number, (name, parameter) in enumerate(module.named_parameters()):
            gradient = torch.full_like(parameter, step - number + 0.5)
            parameter.grad = gradient.clone()
            decays = DECAY if name == "head.weight" else 0.0
            if name.startswith("model."):
                want[name] -= lr * PULL * (want[name] - start[name])
            if kind == "sgd":
                want[name] -= lr * (gradient + decays * want[name])
            else:
                one, two = moments[name]
                one = 0.8 * one + 0.2 * gradient
                two = 0.9 * two + 0.1 * gradient**2
                moments[name] = (one, two)
                want[name] -= lr * decays * want[name]
                size = (two / (1 - 0.9**step)).sqrt() + 1e-3
                want[name] -= lr * one / (1 - 0.8**step) / size
        optimizer.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), want[name], rtol=1e-12, atol=1e-12)
        assert torch.equal(optimizer.state[parameter]["start"], start[name])


def test_without_it_there_is_no_start() -> None:
    module = task()
    optimizer = build_optimizer(module, OptimConfig(lr=LR, weight_decay=DECAY))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not any("start" in state for state in optimizer.state.values())
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, DECAY}
