"""Is a recipe exact? The same training on 1 and 2 ranks, at any ZeRO stage and micro-batch size.

    python -m mmfm.testing mine.yaml [key=value …]

For a recipe of `mmfm pretrain` or `mmfm finetune` with an encoder, an objective or a head of your
own. First the counts of the losses are checked, whatever the samples lack. Then the recipe's first
steps run with SGD in fp32 and without dropout: on one rank in one micro-batch, on one rank in the
smallest micro-batches, on two ranks under ZeRO 3 in the smallest micro-batches. Losses and gradient
norms must agree. It takes a minute for a small model, and says what is wrong with exit code 1.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml

from mmfm.config import read_yaml, to_dict
from mmfm.task import Task, without
from mmfm.train import finetune, pretrain
from mmfm.train.log import read_metrics
from mmfm.train.run import Run
from mmfm.types import Batch

STEPS = 3
LIMIT = 1e-4
"""A relative difference that rounding in fp32 stays well below in so few steps."""


def count_problems(task: Task, batch: Batch) -> list[str]:
    """What is wrong with the counts of the losses of `batch`, one that is not prepared, and of what
    is left of it without any of its modalities.
    """
    task.eval()
    found = []
    for number in range(len(batch["rows"]) + 1):
        for gone in combinations(batch["rows"], number):
            part = task.prepare(without(batch, gone))
            with torch.no_grad():
                counts, losses = task.counts(part), task(part).losses
            lacks = f"without {' and '.join(gone)}: " if gone else ""
            if set(counts) != set(losses):
                found.append(f"{lacks}`counts` names {set(counts)}, the losses {set(losses)}")
                continue
            for name, (total, count) in losses.items():
                if counts[name].item() != count.item():
                    said = f"{counts[name].item():g} in `counts`, {count.item():g} in the loss"
                    found.append(f"{lacks}{name}: {said}")
                if not total.isfinite() or (not count.item() and total.item()):
                    found.append(f"{lacks}{name}: a sum of {total.item()} over {count.item():g}")
    return found


def step_problems(run: Run, name: str) -> list[str]:
    """Where the first steps of the run of the command `name` differ by how they are split; each
    split runs in processes of its own.
    """
    recipe = _plain(to_dict(run.recipe))
    smallest = recipe["data"]["global_batch_size"] // recipe["data"]["streams"]
    splits: dict[str, tuple[int, dict[str, Any]]] = {
        "in one micro-batch": (1, {"micro_batch_size": None, "zero_stage": 0}),
        "in the smallest micro-batches": (1, {"micro_batch_size": smallest, "zero_stage": 0}),
        "on two ranks under ZeRO 3": (2, {"micro_batch_size": smallest, "zero_stage": 3}),
    }
    rows = {}
    with tempfile.TemporaryDirectory(prefix="mmfm.") as folder:
        for number, (split, (ranks, settings)) in enumerate(splits.items()):
            of_split = {**recipe, "train": {**recipe["train"], **settings}}
            of_split["run"] = {**recipe["run"], "dir": f"{folder}/{number}"}
            file = Path(folder, f"{number}.yaml")
            file.write_text(yaml.safe_dump(of_split), encoding="utf-8")
            print(f"{name} {split}", flush=True)
            _launch(ranks, name, file)
            found = read_metrics(Path(folder, str(number), "metrics.jsonl"))
            rows[split] = [row for row in found if row.get("split") == "train"]
    (_, want), *others = rows.items()
    return [problem for split, got in others for problem in _compare(split, got, want)]


def _compare(split: str, got: list[dict[str, Any]], want: list[dict[str, Any]]) -> Iterator[str]:
    for one, other in zip(got, want, strict=True):
        if one["batch_hash"] != other["batch_hash"]:
            yield f"step {one['step']} {split}: other samples"
        for key, value in other.items():
            if not key.endswith("loss") and not key.startswith("grad_norm"):
                continue
            by = abs(one[key] - value) / (abs(value) or 1.0)
            if not by <= LIMIT:
                yield f"step {one['step']} {split}: {key} is {one[key]:.7g}, not {value:.7g}"


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe's first steps, with nothing in them that isn't the same for every split."""
    steps = {"max_steps": STEPS, "epochs": None, "log_every": 1, "log_norms": True}
    to_the_end = {"keep_best": None, "patience": None}
    train = {**recipe["train"], **steps, **to_the_end, "precision": "fp32", "grad_cache": "auto"}
    sgd = {"type": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "constant", "options": {}}
    optim = {**recipe["optim"], **sgd, "warmup_steps": 0, "decay_steps": 0, "ema": None}
    run = {**recipe["run"], "resume": "never", "trackers": []}
    changed = {"train": train, "optim": optim, "run": run, "eval": {}, "test": {}}
    plain: dict[str, Any] = _without_dropout({**recipe, **changed})
    return plain


def _without_dropout(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {
        key: 0.0 if key.endswith(("dropout", "drop_path")) else _without_dropout(value)
        for key, value in settings.items()
    }


def _launch(ranks: int, name: str, recipe: Path) -> None:
    command = [sys.executable, "-m", "mmfm"]
    if ranks > 1:
        launcher = str(Path(sys.executable).parent / "deepspeed")
        port = str(free_port())
        command = [launcher, "--num_gpus", str(ranks), "--master_port", port, "--module", "mmfm"]
    # Two ranks need no two GPUs.
    on_cpu = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([*command, name, str(recipe)], env=on_cpu, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"it stopped:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def free_port() -> int:
    """A port of this machine that nobody listens on now, for a group of ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main(argv: Sequence[str]) -> int:
    """Check the recipe ``argv[0]`` with the overrides that follow; the exit code."""
    try:
        name = "finetune" if "head" in read_yaml(argv[0]) else "pretrain"
        prepare = finetune.prepare if name == "finetune" else pretrain.prepare
        run = prepare(argv[0], argv[1:])
        batch = next(iter(run.pipeline(world_size=1)))[0]
        problems = count_problems(run.task, batch) or step_problems(run, name)
    except ValueError as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{argv[0]}: {f'{len(problems)} problems' if problems else 'exact'}")
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("python -m mmfm.testing RECIPE [key=value …]")
    sys.exit(main(sys.argv[1:]))
