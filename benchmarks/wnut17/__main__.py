"""Fine-tuning for named entities: full, LoRA and frozen, beside transformers' Trainer.

    python -m benchmarks.wnut17 WNUT17 [--epochs 5] [--seeds 0 1 2] [--only full theirs]

WNUT17 is a folder with train.conll, dev.conll and test.conll. The same weights (all-MiniLM-L6-v2),
sentences, epochs and batch size on both sides, fp32, one core for each run and two at a time. Each
side's learning rate is the best on dev of those that are tried with the first seed; then all seeds
are run with it, and judged on test once. Prints mean and t interval over the seeds as markdown.
Runs that are done are not run again: `--runs` keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/finetune/wnut17.yaml"

Command = Callable[["Job"], list[str]]


@dataclass(frozen=True)
class Job:
    """One run: of which way to train, with which learning rate and seed, in which folder."""

    way: str
    lr: float
    seed: int
    epochs: float
    data: Path
    weights: Path
    folder: Path


def ours(*more: str) -> Command:
    """mmfm's command with further settings."""

    def command(job: Job) -> list[str]:
        return [
            *(sys.executable, "-m", "mmfm", "finetune", str(RECIPE)),
            f"run.dir={job.folder}",
            f"run.seed={job.seed}",
            "run.trackers=[]",
            f"model.encoders.text.name={job.weights}",
            f"data.sources.train.path={job.data}",
            *(f"eval.sources.{name}.path={job.data}" for name in ("dev", "train")),
            *(f"test.sources.{name}.path={job.data}" for name in ("test", "train")),
            f"train.epochs={job.epochs}",
            f"optim.lr={job.lr}",
            *more,
        ]

    return command


def theirs(job: Job) -> list[str]:
    """transformers' Trainer."""
    words = [sys.executable, "-m", "benchmarks.wnut17.theirs", str(job.weights), str(job.data)]
    options = {"--lr": job.lr, "--seed": job.seed, "--epochs": job.epochs}
    return [*words, str(job.folder / "scores.json"), *(str(w) for o in options.items() for w in o)]


WAYS: dict[str, tuple[Command, tuple[float, ...]]] = {
    "theirs": (theirs, (1e-4, 2e-4, 4e-4)),
    "full": (ours(), (1e-4, 2e-4, 4e-4)),
    "lora": (ours("lora={rank: 16, alpha: 32, parts: [text]}"), (1e-3, 2e-3, 4e-3)),
    "frozen": (ours("freeze=encoders"), (3e-3, 1e-2, 3e-2)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("conll", type=Path)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--runs", type=Path, default=Path.home() / ".cache/mmfm-benchmarks/wnut17")
    args = parser.parse_args()
    data, weights = prepared(args.conll, args.runs)

    def job(way: str, lr: float, seed: int) -> Job:
        folder = args.runs / f"{args.epochs:g}-epochs" / f"{way}-{lr:g}-{seed}"
        return Job(way, lr, seed, args.epochs, data, weights, folder)

    tried = [job(way, lr, args.seeds[0]) for way in args.only for lr in WAYS[way][1]]
    run_all(tried)
    best = {
        way: max((j for j in tried if j.way == way), key=lambda j: scores(j)["dev"]).lr
        for way in args.only
    }
    chosen = {way: [job(way, best[way], seed) for seed in args.seeds] for way in args.only}
    run_all([j for jobs in chosen.values() for j in jobs])
    print(f"| way | learning rate | dev F1 | test F1, {len(args.seeds)} seeds | each |")
    print("| --- | --- | --- | --- | --- |")
    for way, jobs in chosen.items():
        dev, test = ([scores(j)[split] for j in jobs] for split in ("dev", "test"))
        each = ", ".join(f"{100 * value:.1f}" for value in test)
        print(f"| {way} | {best[way]:g} | {interval(dev)} | {interval(test)} | {each} |")
    return 0


def prepared(conll: Path, runs: Path) -> tuple[Path, Path]:
    """The shards of the sentences, and the weights, made where they aren't there."""
    data, weights = runs / "data", runs / "minilm"
    mmfm = [sys.executable, "-m", "mmfm", "data"]
    if not (data / "manifest.json").exists():
        subprocess.run([*mmfm, "make", "conll", str(conll), str(data)], check=True)
    if not weights.exists():
        subprocess.run([*mmfm, "weights", "minilm", str(weights)], check=True)
    return data, weights


def run_all(jobs: list[Job]) -> None:
    """Run what is not done yet, two at a time on one core each."""
    left = [job for job in dict.fromkeys(jobs) if not done(job)]
    with ThreadPoolExecutor(2) as pool:
        for number, job in enumerate(pool.map(run, left), 1):
            told = ", ".join(f"{k} {100 * v:.1f}" for k, v in scores(job).items())
            print(f"{number}/{len(left)} {job.folder.name}: {told}", file=sys.stderr, flush=True)


def run(job: Job) -> Job:
    job.folder.mkdir(parents=True, exist_ok=True)
    command = WAYS[job.way][0](job)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (job.folder / "output.txt").open("w") as output:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=True)
    return job


def done(job: Job) -> bool:
    return any((job.folder / name).exists() for name in ("test.json", "scores.json"))


def scores(job: Job) -> dict[str, float]:
    """Entity F1 on dev and test of a run that is done."""
    if job.way == "theirs":
        found = json.loads((job.folder / "scores.json").read_text())
        return {split: found[split] for split in ("dev", "test")}
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    f1 = {row["split"]: row["value"] for row in rows if row.get("metric") == "entity_f1"}
    return {"dev": f1["eval"], "test": f1["test"]}


def interval(values: list[float]) -> str:
    """Mean and 95 % t interval, in percent."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    spread = statistics.stdev(values) / len(values) ** 0.5 * float(t.ppf(0.975, len(values) - 1))
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
