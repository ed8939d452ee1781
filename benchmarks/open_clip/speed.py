"""mmfm's trainer beside open_clip's model, loss and loop: seconds a step and memory.

    python -m benchmarks.open_clip.speed TOKENIZER [--size b32] [--batch 512] [--precision bf16]

Both train the same towers on the same batch of random pictures and words, on one GPU or one core,
each measurement in a process of its own and in turns. open_clip's side is its ``amp_bf16`` or fp32
with torch's AdamW, mmfm's its whole step: DeepSpeed, finite check, norms, losses. `--size b32` is
ViT-B/32 but for the words that TOKENIZER knows (a folder that `mmfm data tokenizer` writes).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch

from benchmarks.open_clip import same
from mmfm import distributed
from mmfm.task import PretrainTask
from mmfm.train.engine import start_process_group
from mmfm.train.measure import peak_memory
from mmfm.train.recipe import PretrainConfig, load_pretrain
from mmfm.train.trainer import Trainer
from mmfm.types import Batch, to_device
from open_clip.loss import ClipLoss

SIZES = {
    "tiny": [],
    "b32": [
        "model.embed_dim=512",
        "model.encoders.image.image_size=224",
        "model.encoders.image.patch_size=32",
        "model.encoders.image.width=768",
        "model.encoders.image.layers=12",
        "model.encoders.image.head_width=64",
        "model.encoders.text.max_length=77",
        "model.encoders.text.width=512",
        "model.encoders.text.layers=12",
        "model.encoders.text.heads=8",
    ],
}
WARM_UP = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tokenizer")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--micro-batches",
        type=int,
        default=1,
        help="of mmfm; open_clip's accum_freq is not measured",
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--side", choices=["open_clip", "mmfm"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measured(args.side, args)))
        return 0
    words = [sys.executable, "-m", "benchmarks.open_clip.speed", *sys.argv[1:], "--side"]
    found: dict[str, list[dict[str, float]]] = {"open_clip": [], "mmfm": []}
    for _ in range(args.turns):
        for side, runs in found.items():
            said = subprocess.run([*words, side], stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(said.stdout.splitlines()[-1]))
    print(table(found, args.batch))
    return 0


def measured(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a step after some to warm up, and the most memory."""
    start_process_group()
    config = recipe(args)
    torch.manual_seed(0)
    device = distributed.device()
    step = {"open_clip": open_clip_step, "mmfm": mmfm_step}[side](config, args)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(WARM_UP):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(args.steps):
        step()
    wait()
    return {"seconds": (time.perf_counter() - start) / args.steps, "memory": peak_memory() / 2**30}


def recipe(args: argparse.Namespace) -> PretrainConfig:
    return load_pretrain(
        same.RECIPE,
        [
            f"model.encoders.text.tokenizer={args.tokenizer}",
            f"data.global_batch_size={args.batch}",
            f"train.micro_batch_size={args.batch // args.micro_batches}",
            f"train.precision={args.precision}",
            f"train.zero_stage={args.zero_stage}",
            *SIZES[args.size],
        ],
    )


def batch_of(config: PretrainConfig, size: int) -> Batch:
    image, text = config.model.encoders["image"], config.model.encoders["text"]
    places = torch.arange(size)
    words = torch.randint(5, 200, (size, text.max_length))
    words[:, -1] = text.build().tokenizer.eos_id
    return {
        "image": torch.randn(size, 3, image.image_size, image.image_size),
        "text": words,
        "text_mask": torch.ones_like(words, dtype=torch.bool),
        "rows": {"image": places, "text": places},
        "group": places,
        "mask_seed": places,
        "sample_hash": places,
        "stream": places // max(1, size // config.data.streams),
        "sample_id": [str(int(place)) for place in places],
        "masked_view": torch.ones(size, dtype=torch.bool),
    }


def mmfm_step(config: PretrainConfig, args: argparse.Namespace) -> Callable[[], Any]:
    task = PretrainTask.build(config)
    trainer = Trainer(task, config.train, config.optim, global_batch_size=args.batch, seed=0)
    size = args.batch // args.micro_batches
    batches = [to_device(batch_of(config, size), distributed.device())] * args.micro_batches
    return lambda: trainer.step(batches, config.optim.lr)


def open_clip_step(config: PretrainConfig, args: argparse.Namespace) -> Callable[[], Any]:
    text, optim = config.model.encoders["text"], config.optim
    device = distributed.device()
    model = same.open_clip_model(config, text.build().tokenizer).to(device).train()
    batch = to_device(batch_of(config, args.batch), device)
    adamw = torch.optim.AdamW(
        model.parameters(), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=0.2
    )
    loss_of = ClipLoss(local_loss=True, gather_with_grad=True)
    bf16 = args.precision == "bf16"
    autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()

    def step() -> None:
        adamw.zero_grad()
        with autocast:
            loss = loss_of(*model(batch["image"], batch["text"]))
        loss.backward()
        adamw.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return step


def table(found: dict[str, list[dict[str, float]]], batch: int) -> str:
    lines = [
        "| side | samples/s (least to most) | GiB | rate to open_clip's |",
        "| --- | --- | --- | --- |",
    ]
    theirs = [run["seconds"] for run in found["open_clip"]]
    for side, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        rates = sorted(batch / s for s in seconds)
        ratios = sorted(a / b for a, b in zip(theirs, seconds, strict=True))
        told = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rate = f"{median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        memory = max(run["memory"] for run in runs)
        lines.append(f"| {side} | {rate} | {memory:.1f} | {told if side == 'mmfm' else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
