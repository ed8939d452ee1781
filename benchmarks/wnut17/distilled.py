"""A student of half its teacher's layers: how much of the score, at what size and speed?

    python -m benchmarks.wnut17.distilled WNUT17 [--epochs 3] [--student-epochs 6] [--seeds 0 1 2]

For each seed the fully fine-tuned model of `python -m benchmarks.wnut17` teaches a student of three
of its six layers, on the tagged sentences and as many texts without tags in each step (see
`unlabelled.py`). Beside it the same student is taught on the tagged sentences alone, and learns
from their labels alone, in the same number of steps. Its embeddings stay the teacher's: a name that
none of these texts has keeps the place that the teacher's layers know. Speed: both predict the dev
sentences in turn, one core, and the ratio is that of neighbours in time. Prints markdown.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import mmfm
from benchmarks.seeded import add_at_once, interval, run_all
from benchmarks.wnut17.jobs import CACHE, Job, Made
from benchmarks.wnut17.unlabelled import shards
from mmfm.data.manifest import Manifest
from mmfm.data.sequential import SequentialData

BATCH = 32
"""Tagged sentences in a step."""
WAYS = {
    "unlabelled": "taught, with text without tags",
    "taught": "taught on the sentences",
    "labels": "labels alone",
}
STUDENT = ("model.encoders.text.keep_layers=[0, 2, 4]", "optim.top_layers={text: 3}")
"""Three of the layers, and all three train, but not the embeddings before them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("conll", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--student-epochs", type=float, default=6)
    parser.add_argument("--lr", type=float, default=2e-4, help="the teacher's")
    parser.add_argument("--student-lr", type=float, default=5e-4)
    parser.add_argument("--weight", type=float, default=4.0, help="of the teacher's answers")
    parser.add_argument("--hidden", type=float, default=1.0, help="of the teacher's tokens")
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=Path, default=CACHE)
    add_at_once(parser)
    args = parser.parse_args()
    made = Made.of(args.conll, args.runs)
    teachers = [Job(made, "full", args.lr, seed, args.epochs) for seed in args.seeds]
    run_all(teachers, args.at_once)
    texts = shards(args.runs / "unlabelled")
    sentences = len(Manifest.open(made.data, ["train"]))

    def student(teacher: Job, way: str) -> Job:
        more = [f"init={teacher.folder}", *STUDENT]
        if way != "labels":
            settings = f"path: {teacher.folder}, weight: {args.weight}, hidden: {args.hidden}"
            more.append(f"teacher={{{settings}}}")
        if way == "unlabelled":
            source = f"{{path: {texts}, splits: [train], weight: 1}}"
            steps = math.ceil(args.student_epochs * sentences / BATCH)
            more += [
                *("data.sources.train.weight=1", f"data.sources.unlabelled={source}"),
                *(f"data.global_batch_size={2 * BATCH}", f"train.max_steps={steps}"),
                "train.epochs=null",
            ]
        told = "" if way == "labels" else f"-{args.weight:g}-{args.hidden:g}"
        name = f"student-{way}{told}"
        return Job(made, name, args.student_lr, teacher.seed, args.student_epochs, tuple(more))

    students = {way: [student(teacher, way) for teacher in teachers] for way in args.only}
    run_all((job for jobs in students.values() for job in jobs), args.at_once)
    print("| | dev F1 | test F1 | of the teacher's test F1, each seed |")
    print("| --- | --- | --- | --- |")
    for name, jobs in (("teacher", teachers), *((WAYS[way], students[way]) for way in args.only)):
        dev, test = ([j.scores()[split] for j in jobs] for split in ("dev", "test"))
        kept = [
            f"{100 * j.scores()['test'] / t.scores()['test']:.1f} %"
            for j, t in zip(jobs, teachers, strict=True)
        ]
        print(f"| {name} | {interval(dev)} | {interval(test)} | {', '.join(kept)} |")
    big, small = (mmfm.load(j.folder, "cpu") for j in (teachers[0], students[args.only[0]][0]))
    ratio = _inner(small) / _inner(big)
    print(f"\nparameters outside the embeddings: {100 * ratio:.1f} % of the teacher's")
    ratios = speed(big, small, made.data, args.rounds)
    print(
        f"speed: {statistics.median(ratios):.2f} times the teacher's "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {args.rounds} rounds)"
    )
    return 0


def _inner(predictor: Any) -> int:
    """The weights of the encoder but its embeddings, and of the head."""
    encoder = predictor.model.encoder("text").model
    inner = sum(p.numel() for n, p in encoder.named_parameters() if not n.startswith("embeddings."))
    return inner + sum(p.numel() for p in predictor.head.parameters())


def speed(big: Any, small: Any, data: Path, rounds: int) -> list[float]:
    """For each round, how many times as fast the small one predicts the dev sentences."""
    torch.set_num_threads(1)
    batches = list(
        SequentialData([("dev", Manifest.open(data, ["dev"]))], big.specs, batch_size=32)
    )
    ratios = []
    for _ in range(rounds):
        times = []
        for predictor in (big, small):
            start = time.perf_counter()
            predictor.judged_batches(batches)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return ratios


if __name__ == "__main__":
    raise SystemExit(main())
