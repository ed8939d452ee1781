"""A part that thaws, learning rates by part and layer, and the average of the weights, at every
ZeRO stage on one and two ranks, against plain PyTorch.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import timm.optim
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.train import exactness_worker
from tests.train.exactness import distance, fill_gradients
from tests.train.thaw_worker import CASES, OPTIM, STEPS, THAW, Case

WHOLE = exactness_worker.Case(0, 1, False, "sgd")


def factor(name: str) -> float:
    """The image encoder has one layer: its norm counts to it, the patch embedding stands before."""
    if name.startswith("objectives."):
        return 2.0
    if name.startswith("model.encoders.image.transformer"):
        return 0.5
    return 0.25 if name.startswith("model.encoders.image") else 1.0


@cache
def plain_run(tokenizer: str, kind: str, dtype: torch.dtype):
    """Losses of every step, the last weights and their average, with a group for each weight."""
    task = tiny.make_task(tokenizer, seed=0).to(dtype)
    config = OPTIM[kind]
    text = {n: p for n, p in task.named_parameters() if n.startswith("model.encoders.text")}
    others = {n: p for n, p in task.named_parameters() if n not in text}

    def groups(named):
        return [
            {
                "params": [p],
                "lr": config.lr * factor(n),
                "weight_decay": 0.01 if p.ndim > 1 else 0.0,
            }
            for n, p in named.items()
        ]

    if kind == "sgd":
        optimizer = torch.optim.SGD(groups(others), momentum=config.momentum)
    elif kind == "lion":
        optimizer = timm.optim.Lion(groups(others), betas=config.betas)
    else:
        optimizer = torch.optim.AdamW(groups(others), betas=config.betas, eps=config.eps)
    average = {n: p.detach().clone() for n, p in task.named_parameters()}
    losses = []
    for step in range(STEPS):
        if step == THAW:
            for group in groups(text):
                optimizer.add_param_group(group)
        found = fill_gradients(task, None, WHOLE, step)
        optimizer.step()
        losses.append({name: loss.item() for name, loss in found.items()})
        keep = min(0.2, (1 + step) / (10 + step))
        for name, parameter in task.named_parameters():
            average[name] = keep * average[name] + (1 - keep) * parameter.detach()
    return losses, {n: p.detach().clone() for n, p in task.named_parameters()}, average


FP32 = [case for case in CASES if case.precision == "fp32"]


@pytest.mark.parametrize("case", FP32, ids=lambda case: case.name)
def test_losses_equal_plain_pytorch(case: Case, exact_results: Path, exact_tokenizer: str) -> None:
    want, _, _ = plain_run(exact_tokenizer, case.optimizer, torch.float32)
    got = json.loads((exact_results / f"{case.name}.json").read_text())["losses"]
    assert len(got) == STEPS
    for step in range(STEPS):
        assert got[step] == pytest.approx(want[step], rel=2e-6), step


@pytest.mark.parametrize(
    "case", [case for case in FP32 if case.optimizer == "sgd"], ids=lambda case: case.name
)
def test_weights_and_averages_equal_plain_pytorch(
    case: Case, exact_results: Path, exact_tokenizer: str
) -> None:
    """After four steps of SGD with momentum, to 1e-6 of each tensor's norm, against double
    precision.
    """
    _, weights, average = plain_run(exact_tokenizer, "sgd", torch.float64)
    seen = load_file(exact_results / f"{case.name}.safetensors")
    for name in weights:
        assert distance(seen[f"weight/{STEPS}/{name}"], weights[name]) <= 1e-6, name
        assert distance(seen[f"ema/{name}"], average[name]) <= 1e-6, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_average_is_that_of_the_weights_of_every_step(case: Case, exact_results: Path) -> None:
    """Of the fp32 weights, also where the model is bf16; over the step at which a part thaws, the
    engine is built anew and all state comes from a checkpoint.
    """
    seen = load_file(exact_results / f"{case.name}.safetensors")
    names = [key.removeprefix("ema/") for key in seen if key.startswith("ema/")]
    assert len(names) > 60
    for name in names:
        average = seen[f"weight/0/{name}"].double()
        for step in range(STEPS):
            keep = min(0.2, (1 + step) / (10 + step))
            average = keep * average + (1 - keep) * seen[f"weight/{step + 1}/{name}"].double()
        assert distance(seen[f"ema/{name}"], average) <= 2e-7, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_frozen_part_stays_and_then_moves(case: Case, exact_results: Path) -> None:
    seen = load_file(exact_results / f"{case.name}.safetensors")
    text = "model.encoders.text.transformer.blocks.0.attention.out.weight"
    first, at_thaw, last = (seen[f"weight/{step}/{text}"] for step in (0, THAW, STEPS))
    assert torch.equal(first, at_thaw)
    assert not torch.equal(at_thaw, last)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_average_stands_in_for_the_weights_and_goes_again(
    case: Case, exact_results: Path
) -> None:
    seen = load_file(exact_results / f"{case.name}.safetensors")
    for name in [key.removeprefix("ema/") for key in seen if key.startswith("ema/")]:
        before, inside, after = (seen[f"{when}/{name}"] for when in ("before", "inside", "after"))
        assert torch.equal(inside, seen[f"ema/{name}"].to(before.dtype).view_as(before)), name
        assert torch.equal(after, before), name
        assert torch.equal(seen[f"after_masters/{name}"], seen[f"weight/{STEPS}/{name}"]), name
    assert not torch.equal(seen["before/model.fusion.cls"], seen["inside/model.fusion.cls"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_group_for_each_decay_factor_and_start(case: Case, exact_results: Path) -> None:
    lr = OPTIM[case.optimizer].lr
    got = json.loads((exact_results / f"{case.name}.json").read_text())["groups"]
    want = [(f, 0, d) for f in (0.25, 0.5, 1.0, 2.0) for d in (0.0, 0.01)]
    want += [(1.0, THAW, d) for d in (0.0, 0.01)]
    assert sorted((round(own / lr, 6), since, d) for own, since, d in got) == sorted(want)
