"""How much memory a rank needs at each ZeRO stage.

    mmfm data make synthetic data/synthetic
    python -m benchmarks.zero_memory data/synthetic [--ranks 1 2] [--precisions fp32 bf16]

Two towers with some 50 million weights train for three steps on a few samples, so that weights,
gradients and the optimiser's state are what counts. Each line is a launch of its own on CPU (gloo):
the most that a rank has held above what it held before the model was built, for every rank, in all
and for each weight. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import torch

from mmfm import distributed
from mmfm.data.pipeline import Pipeline
from mmfm.task import PretrainTask
from mmfm.train.engine import end_process_group, start_process_group
from mmfm.train.recipe import PretrainConfig, load_pretrain
from mmfm.train.trainer import Trainer
from tests.launch import command

RECIPE = Path(__file__).parent.parent / "configs/pretrain/tiny.yaml"
STEPS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="what `mmfm data make synthetic` has made")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    args = parser.parse_args()
    print("| precision | ranks | ZeRO | MiB a rank | bytes a weight |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for precision in args.precisions:
        for ranks in args.ranks:
            for stage in args.stages:
                if precision == "fp32" or stage:
                    print(row(args.data.resolve(), precision, ranks, stage), flush=True)
    return 0


def row(data: Path, precision: str, ranks: int, stage: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        given = (str(data), precision, str(stage), str(out))
        words, environment = command(ranks, "benchmarks.zero_memory", "--rank", *given)
        subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(out.read_text())
    told = ", ".join(f"{held / 2**20:,.0f}" for held in found["held"])
    a_weight = max(found["held"]) / found["weights"]
    return f"| {precision} | {ranks} | {stage} | {told} | {a_weight:.1f} |"


def recipe(data: Path, precision: str, stage: int) -> PretrainConfig:
    return load_pretrain(
        RECIPE,
        [
            f"data.sources.synthetic.path={data}",
            f"model.encoders.text.tokenizer={data / 'tokenizer'}",
            "objectives={contrastive: {type: contrastive, pairs: [[image, text]]}}",
            "model.encoders.image.width=512",
            "model.encoders.image.layers=8",
            "model.encoders.text.width=512",
            "model.encoders.text.layers=8",
            f"train.precision={precision}",
            f"train.zero_stage={stage}",
        ],
    )


def measure(data: str, precision: str, stage: str, out: str) -> None:
    """What this rank holds at most, and the others; rank 0 writes it."""
    torch.set_num_threads(1)
    config = recipe(Path(data), precision, int(stage))
    start_process_group()
    size = config.data.global_batch_size
    before = psutil.Process().memory_info().rss
    task = PretrainTask.build(config)
    weights = sum(p.numel() for p in task.parameters())
    pipeline = Pipeline(
        config.data,
        task.specs,
        seed=0,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    trainer = Trainer(task, config.train, config.optim, global_batch_size=size, seed=0)
    for _, micro_batches in zip(range(STEPS), pipeline, strict=False):
        trainer.step(micro_batches)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = distributed.all_gather_object(most - before)
    if distributed.is_main():
        Path(out).write_text(json.dumps({"held": held, "weights": weights}))
    distributed.barrier()
    end_process_group()


if __name__ == "__main__":
    if "--rank" in sys.argv:
        measure(*sys.argv[sys.argv.index("--rank") + 1 :])
        os._exit(0)  # nothing is left to be done, and the pipeline's threads need not be waited for
    raise SystemExit(main())
