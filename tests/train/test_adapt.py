"""LoRA, top layers, gradual unfreezing, L2-SP and a teacher at every ZeRO stage on one and two
ranks, over a restart of the engine, against plain PyTorch in double precision.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmfm.layers.lora import of_lora
from tests.train.adapt_worker import OPTIM, STAGES, STEPS, THAW, make_batch, make_task
from tests.train.exactness import distance


def since(name: str) -> int | None:
    """The step from which a weight trains; None for never. Each encoder has one layer."""
    if name.startswith(("model.encoders.text.", "model.fusion.")):
        return 0 if of_lora(name) else None
    in_layer = ".transformer." in name
    if name.startswith("model.encoders.audio."):
        return 0 if in_layer else None
    if name.startswith("model.encoders.image."):
        return THAW if in_layer else None
    return 0


@cache
def plain_run(tokenizer: str) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses of every step, and the last weights."""
    task = make_task(tokenizer).double()
    task.requires_grad_(True)
    weights = dict(task.named_parameters())
    first = {n: w.detach().clone() for n, w in weights.items()}
    speed: dict[str, Tensor] = {}
    losses = []
    for step in range(STEPS):
        batch = task.prepare(make_batch(step))
        found = task(batch).losses
        total = {n: loss / count for n, (loss, count) in found.items()}
        losses.append({n: loss.item() for n, loss in total.items()})
        task.zero_grad()
        weighted = [task.weights[n.split("/")[0]] * loss for n, loss in total.items()]
        torch.stack([loss.double() for loss in weighted]).sum().backward()
        with torch.no_grad():
            for name, weight in weights.items():
                begin = since(name)
                if begin is None or step < begin:
                    continue
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                if name.startswith("model."):
                    weight -= OPTIM.lr * OPTIM.l2_sp * (weight - first[name])
                elif weight.ndim == 2:
                    gradient = gradient + OPTIM.weight_decay * weight
                speed[name] = gradient + OPTIM.momentum * speed.get(name, 0.0)
                weight -= OPTIM.lr * speed[name]
    return losses, {n: w.detach().clone() for n, w in weights.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_equals_plain_pytorch(stage: int, exact_results: Path, exact_tokenizer: str) -> None:
    losses, weights = plain_run(exact_tokenizer)
    got = json.loads((exact_results / f"adapt-stage{stage}.json").read_text())
    for step in range(STEPS):
        assert got[step] == pytest.approx(losses[step], rel=1e-6), step
    seen = load_file(exact_results / f"adapt-stage{stage}.safetensors")
    assert set(seen) == set(weights)
    for name, weight in weights.items():
        assert distance(seen[name], weight) <= 1e-6, name


def test_what_trains_has_moved(exact_tokenizer: str) -> None:
    """So that the comparison above says something of every kind of weight."""
    _, weights = plain_run(exact_tokenizer)
    first = dict(make_task(exact_tokenizer).named_parameters())
    moved = {n for n, w in weights.items() if distance(w, first[n].detach().double()) > 1e-4}
    expected = {n for n in weights if since(n) is not None and ".projections." not in n}
    # Nothing reads the projections into the shared space.
    assert moved == expected
