"""The equality matrix: ranks × ZeRO stages × micro-batches × a modality missing, against plain
PyTorch.

Each rank count is one run of the real launcher with one process group for all cases. Gradients must
agree to 1e-6 of each tensor's norm over three SGD steps, losses to 1e-6 under AdamW.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.train import reference
from tests.train.exactness_worker import ADAMW, CASES, SGD, STEPS, Case, global_batch

FLOAT = torch.float32


@cache
def plain_run(
    tokenizer: str, missing: bool, optimizer: str, few_masked: bool, dtype: torch.dtype = FLOAT
):
    """Losses of every step and the last weights, with plain torch on the whole global batch."""
    task = tiny.make_task(tokenizer, seed=0).to(dtype)
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
    all_losses = []
    for step in range(STEPS):
        found = gradients_of(task, step, missing, few_masked)
        optim.step()
        all_losses.append({name: loss.item() for name, loss in found.items()})
    return all_losses, {name: p.detach().clone() for name, p in task.named_parameters()}


def gradients_of(task, step: int, missing: bool, few_masked: bool = False):
    """Fill the gradients of a step's global batch; a part that the step leaves out has gradient
    zero.
    """
    batch = global_batch(Case(0, 1, missing, "sgd", few_masked), step)
    found = reference.losses(task, batch)
    task.zero_grad()
    reference.total(task, found).backward()
    for parameter in task.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_equal_plain_pytorch(case: Case, exact_results: Path, exact_tokenizer: str) -> None:
    want, _ = plain_run(exact_tokenizer, case.missing, case.optimizer, case.few_masked)
    got = json.loads((exact_results / f"{case.name}.json").read_text())
    for step in range(STEPS):
        for name, loss in got[step].items():
            # A loss that this step can't have is reported as zero.
            assert loss == pytest.approx(want[step].get(name, 0.0), rel=1e-6, abs=1e-9), name
        assert set(want[step]) <= set(got[step])


SGD_CASES = [case for case in CASES if case.optimizer == "sgd"]


@pytest.mark.parametrize("case", SGD_CASES, ids=lambda case: case.name)
def test_gradients_equal_plain_pytorch(
    case: Case, exact_results: Path, exact_tokenizer: str
) -> None:
    """At the trainer's own weights of each step, against double precision: to 1e-6 of each tensor's
    norm.

    Where plain PyTorch in fp32 is itself further than that from double (up to 3e-6 here, for
    gradients in which large terms cancel), the trainer may be as far as three times what plain
    PyTorch is.
    """
    seen = load_file(exact_results / f"{case.name}.safetensors")
    plain = tiny.make_task(exact_tokenizer)
    exact = tiny.make_task(exact_tokenizer).double()
    for step in range(STEPS):
        for task in (plain, exact):
            with torch.no_grad():
                for name, parameter in task.named_parameters():
                    parameter.copy_(seen[f"weight/{step}/{name}"])
            gradients_of(task, step, case.missing, case.few_masked)
        want = {name: p.grad for name, p in exact.named_parameters()}
        noise = max(distance(p.grad, want[name]) for name, p in plain.named_parameters())
        assert noise < 1e-5, "the test's model is too badly conditioned to show anything"
        for name, gradient in want.items():
            off = distance(seen[f"gradient/{step}/{name}"], gradient)
            assert off <= max(1e-6, 3 * noise), (step, name)


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    difference, size = (got - want).norm().item(), want.norm().item()
    return difference / size if size else difference


@pytest.mark.parametrize("case", SGD_CASES, ids=lambda case: case.name)
def test_weights_equal_plain_pytorch(case: Case, exact_results: Path, exact_tokenizer: str) -> None:
    """After three SGD steps, to 1e-6 of each tensor's norm, against double precision."""
    _, exact = plain_run(exact_tokenizer, case.missing, "sgd", case.few_masked, torch.float64)
    seen = load_file(exact_results / f"{case.name}.safetensors")
    for name, weight in exact.items():
        off = distance(seen[f"weight/{STEPS}/{name}"], weight)
        assert off <= 1e-6, name


def test_every_parameter_has_a_gradient_to_compare(exact_tokenizer: str) -> None:
    task = tiny.make_task(exact_tokenizer)
    gradients_of(task, 0, missing=False)
    assert not [name for name, p in task.named_parameters() if not p.grad.any()]
