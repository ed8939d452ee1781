"""mmfm's trainer beside open_clip's model, loss and plain loop, on the same batches.

    python -m benchmarks.open_clip [--steps 50] [--ranks 1 2] [--cache FOLDER]

Both start from the same weights (open_clip's own start) and see the same batches, which mmfm's
pipeline makes from Debian's openclipart-png. Prints the losses of some steps and the largest
relative difference over all; exits with 1 where it is above 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.open_clip import same
from benchmarks.open_clip.shards import shards
from mmfm.data.pipeline import Pipeline
from mmfm.data.tokenizer import load_tokenizer
from mmfm.task import PretrainTask

ROOT = Path(__file__).parent.parent.parent
LIMIT = 1e-4
SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mmfm-benchmarks")
    args = parser.parse_args()
    data = shards(args.cache)
    with tempfile.TemporaryDirectory() as folder:
        losses = run(data, args.steps, args.ranks, Path(folder))
    print(table(losses, args.steps))
    worst = max(
        difference(ours, losses[f"open_clip, {ranks}"])
        for ranks in args.ranks
        for ours in (losses[f"mmfm, {ranks}"],)
    )
    return int(worst > LIMIT)


def run(data: Path, steps: int, ranks: list[int], folder: Path) -> dict[str, list[float]]:
    """``side, ranks`` ▶ the loss of every step."""
    config = same.recipe(data)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(config.model.encoders["text"].tokenizer)
    save_file(same.open_clip_model(config, tokenizer).state_dict(), folder / "init")
    pipeline = Pipeline(config.data, PretrainTask.build(config).specs, seed=0, rank=0, world_size=1)
    same.save_batches(pipeline, steps, folder / "batches")
    given = [str(data), str(folder / "batches"), str(folder / "init"), str(steps)]
    found = {}
    for count in ranks:
        for side in ("open_clip", "mmfm"):
            out = folder / f"{side}-{count}"
            launch(side, count, [*given, str(out)])
            found[f"{side}, {count}"] = json.loads(out.read_text())
    return found


def launch(side: str, ranks: int, arguments: list[str]) -> None:
    scripts = Path(sys.executable).parent
    words = {
        "mmfm": [
            *(str(scripts / "deepspeed"), "--num_gpus", str(ranks), "--module"),
            "benchmarks.open_clip.ours",
        ],
        "open_clip": [
            *(str(scripts / "torchrun"), "--standalone", "--nproc_per_node", str(ranks), "-m"),
            "benchmarks.open_clip.theirs",
        ],
    }[side]
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
    environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*words, *arguments], cwd=ROOT, env=environment, check=True)


def difference(one: list[float], other: list[float]) -> float:
    """The largest relative difference of a step."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def table(losses: dict[str, list[float]], steps: int) -> str:
    """In markdown; differences are to open_clip on as many ranks."""
    shown = [step for step in SHOWN if step <= steps]
    lines = [
        "| side, ranks | " + " | ".join(f"step {step}" for step in shown) + " | difference |",
        "| --- |" + " --- |" * (len(shown) + 1),
    ]
    for name, values in losses.items():
        peer = losses[f"open_clip, {name.split(', ')[1]}"]
        told = "" if peer is values else f"{difference(values, peer):.1e}"
        cells = " | ".join(f"{values[step - 1]:.6f}" for step in shown)
        lines.append(f"| {name} | {cells} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
