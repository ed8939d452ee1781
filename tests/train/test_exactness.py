"""The equality matrix: ranks × ZeRO stages × micro-batches × a modality missing, against plain PyTorch.

Each rank count is one run of the real launcher with one process group for all cases. Gradients must agree to 1e-6 of
each tensor's norm over three SGD steps, losses to 1e-6 under AdamW.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.launch import deepspeed
from tests.train import reference
from tests.train.exactness_worker import ADAMW, CASES, SGD, STEPS, Case, left_out


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("exactness") / "tokenizer")


@pytest.fixture(scope="session", params=[1, 2], ids=["1rank", "2ranks"])
def results(request, tokenizer, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(f"ranks{request.param}")
    deepspeed(request.param, "tests.train.exactness_worker", tokenizer, str(out))
    return out


@cache
def expected(tokenizer: str, missing: bool, optimizer: str):
    """Losses and gradients of every step, with plain torch on the whole global batch."""
    task = tiny.make_task(tokenizer, seed=0)
    config = SGD if optimizer == "sgd" else ADAMW
    matrices = [p for p in task.parameters() if p.ndim >= 2]
    vectors = [p for p in task.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if optimizer == "sgd":
        optim = torch.optim.SGD(groups, lr=config.lr)
    else:
        optim = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    all_losses, gradients = [], {}
    for step in range(STEPS):
        case = Case(0, 1, missing, optimizer)
        found = reference.losses(task, tiny.make_batch(step, left_out(case, step)))
        optim.zero_grad()
        reference.total(task, found).backward()
        for name, parameter in task.named_parameters():
            if parameter.grad is None:  # a part that this step leaves out has gradient zero
                parameter.grad = torch.zeros_like(parameter)
            gradients[f"{step}/{name}"] = parameter.grad.clone()
        optim.step()
        all_losses.append({name: loss.item() for name, loss in found.items()})
    return all_losses, gradients


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_equal_plain_pytorch(case: Case, results: Path, tokenizer: str) -> None:
    want, _ = expected(tokenizer, case.missing, case.optimizer)
    got = json.loads((results / f"{case.name}.json").read_text())
    for step in range(STEPS):
        for name, loss in got[step].items():
            # A loss that this step can't have is reported as zero.
            assert loss == pytest.approx(want[step].get(name, 0.0), rel=1e-6, abs=1e-9), name
        assert set(want[step]) <= set(got[step])


@pytest.mark.parametrize("case", [c for c in CASES if c.optimizer == "sgd"], ids=lambda c: c.name)
def test_gradients_equal_plain_pytorch(case: Case, results: Path, tokenizer: str) -> None:
    _, want = expected(tokenizer, case.missing, "sgd")
    got = load_file(results / f"{case.name}.safetensors")
    assert set(got) == set(want)
    for name, gradient in want.items():
        difference = (got[name] - gradient).norm().item()
        assert difference <= 1e-6 * gradient.norm().item() + 1e-12, name


def test_every_parameter_has_a_gradient_to_compare(tokenizer: str) -> None:
    _, gradients = expected(tokenizer, False, "sgd")
    silent = [name for name, gradient in gradients.items() if not gradient.any()]
    assert not silent
