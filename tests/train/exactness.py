"""How far a trained case of the equality matrix is from plain PyTorch in double precision."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import mmfm
from mmfm.model import Model
from mmfm.task import PretrainTask
from tests import tiny
from tests.launch import on_ranks
from tests.objectives import teachers
from tests.train import adapt_worker, reference
from tests.train.exactness_worker import ADAMW, SGD, STEPS, STILL, Case, global_batch, task_of

LIMIT = 1e-6


@dataclass(frozen=True)
class Plain:
    """What plain PyTorch gives from the files of a tokenizer and a teacher."""

    tokenizer: str
    teacher: str

    @classmethod
    def make(cls, folder: Path) -> Plain:
        tokenizer = tiny.make_tokenizer(folder / "tokenizer")
        recipe = teachers.settings(tokenizer, width=24)
        adapt_worker.write_teacher(tokenizer, recipe["model"])
        return cls(tokenizer, teachers.write(folder / "teacher", recipe))

    @property
    def objectives(self) -> list[str]:
        return list(tiny.task_settings(self.tokenizer, teacher=self.teacher)["objectives"])

    def task(self, case: Case, dtype: torch.dtype = torch.float64) -> tuple[PretrainTask, Model]:
        teacher = mmfm.load(self.teacher).model.to("cpu", dtype)
        return task_of(case, self.tokenizer, self.teacher).to(dtype), teacher


@dataclass
class Differences:
    """Of losses relative to the loss, of gradients and weights to the norm of each tensor.

    `noise`: of a gradient of plain PyTorch in fp32.
    """

    losses: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


def train(
    ranks: int, cases: list[Case], plain: Plain, out: Path, *flags: str, gpu: bool = False
) -> None:
    """Run the worker on `cases`; its results are in the folder `out`."""
    (out / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    given = (*flags, plain.tokenizer, plain.teacher, str(out / "cases.json"), str(out))
    on_ranks(ranks, "tests.train.exactness_worker", *given, gpu=gpu, timeout=4 * 3600)


def differences(case: Case, results: Path, plain: Plain) -> Differences:
    """Of a case that the worker has trained into the folder `results`."""
    found = Differences()
    all_losses, last = trained(plain, case.recipe)
    for step, got in enumerate(json.loads((results / f"{case.name}.json").read_text())):
        want = all_losses[step]
        assert set(want) <= set(got), f"{case.name}: not all losses are reported"
        for name, loss in got.items():
            # A loss that this step can't have is reported as zero.
            expected = want.get(name, 0.0)
            found.losses[f"{step}/{name}"] = abs(loss - expected) / (abs(expected) or 1.0)
    if case.optimizer == "sgd":
        seen = load_file(results / f"{case.name}.safetensors")
        for step in range(STILL):
            want, noise = first_gradients(plain, case.recipe, step)
            for name, gradient in want.items():
                key = f"{step}/{name}"
                found.gradients[key] = distance(seen[f"gradient/{key}"], gradient)
                found.noise[key] = noise[name]
        for name, weight in last.items():
            found.weights[name] = distance(seen[f"weight/{name}"], weight)
    return found


def too_far(found: Differences) -> dict[str, float]:
    """What is further off than 1e-6.

    Where plain PyTorch in fp32 is itself further than a third of that from double, for gradients in
    which large terms cancel, the trainer may be as far as three times what plain PyTorch is.
    """
    limits = {f"gradient {k}": max(LIMIT, 3 * noise) for k, noise in found.noise.items()}
    off = {
        **{f"loss {k}": by for k, by in found.losses.items()},
        **{f"gradient {k}": by for k, by in found.gradients.items()},
        **{f"weight {k}": by for k, by in found.weights.items()},
    }
    return {name: by for name, by in off.items() if not by <= limits.get(name, LIMIT)}


def distance(got: Tensor, want: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    difference, size = (got.double() - want).norm().item(), want.norm().item()
    return difference / size if size else difference


def case_of(recipe: tuple[bool, str, str, bool]) -> Case:
    missing, optimizer, objective, few_masked = recipe
    return Case(0, 1, missing, optimizer, objective, few_masked)


@cache
def trained(
    plain: Plain, recipe: tuple[bool, str, str, bool]
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses of every step and the last weights."""
    case = case_of(recipe)
    task, teacher = plain.task(case)
    config = SGD if case.optimizer == "sgd" else ADAMW
    parameters = list(task.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if case.optimizer == "sgd":
        optim = torch.optim.SGD(groups, lr=config.lr)
    else:
        optim = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    all_losses = []
    for step in range(STEPS):
        found = fill_gradients(task, teacher, case, step)
        optim.step()
        all_losses.append({name: loss.item() for name, loss in found.items()})
    return all_losses, {name: p.detach().clone() for name, p in task.named_parameters()}


@cache
def first_gradients(
    plain: Plain, recipe: tuple[bool, str, str, bool], step: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """At the first weights: the gradient of a step's batch, and how far fp32 is from it."""
    case = case_of(recipe)
    found = []
    for dtype in (torch.float64, torch.float32):
        task, teacher = plain.task(case, dtype)
        fill_gradients(task, teacher, case, step)
        found.append({name: p.grad for name, p in task.named_parameters()})
    want, rough = found
    return want, {name: distance(rough[name], gradient) for name, gradient in want.items()}


def fill_gradients(task: PretrainTask, teacher: Model, case: Case, step: int) -> dict[str, Tensor]:
    """Fill the gradients of a step's global batch; a part that the step leaves out has gradient
    zero.
    """
    batch = global_batch(case.few_masked, case.missing, step)
    found = reference.losses(task, batch, teacher)
    task.zero_grad()
    reference.total(task, found).backward()
    for parameter in task.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return found
