"""Runs on WNUT-17: their commands, two of them at a time on one core each, and their scores."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/finetune/wnut17.yaml"
CACHE = Path.home() / ".cache/mmfm-benchmarks/wnut17"


@dataclass(frozen=True)
class Made:
    """The folder of all runs, with the shards of the sentences and the weights of MiniLM."""

    runs: Path

    @property
    def data(self) -> Path:
        return self.runs / "data"

    @property
    def weights(self) -> Path:
        return self.runs / "minilm"

    @classmethod
    def of(cls, conll: Path, runs: Path) -> Made:
        """Make what isn't there; `conll` holds train.conll, dev.conll and test.conll."""
        made = cls(runs)
        mmfm = [sys.executable, "-m", "mmfm", "data"]
        if not (made.data / "manifest.json").exists():
            subprocess.run([*mmfm, "make", "conll", str(conll), str(made.data)], check=True)
        if not made.weights.exists():
            subprocess.run([*mmfm, "weights", "minilm", str(made.weights)], check=True)
        return made


@dataclass(frozen=True)
class Job:
    """One run: of mmfm with settings `more`, or of transformers' Trainer (`theirs`)."""

    made: Made
    way: str
    lr: float
    seed: int
    epochs: float
    more: tuple[str, ...] = ()
    theirs: bool = False

    @property
    def folder(self) -> Path:
        return self.made.runs / f"{self.epochs:g}-epochs" / f"{self.way}-{self.lr:g}-{self.seed}"

    @property
    def done(self) -> bool:
        return any((self.folder / name).exists() for name in ("test.json", "scores.json"))

    def command(self) -> list[str]:
        """What is run."""
        data, weights = str(self.made.data), str(self.made.weights)
        if self.theirs:
            options = {"--lr": self.lr, "--seed": self.seed, "--epochs": self.epochs}
            return [
                *(sys.executable, "-m", "benchmarks.wnut17.theirs", weights, data),
                str(self.folder / "scores.json"),
                *(str(word) for option in options.items() for word in option),
            ]
        return [
            *(sys.executable, "-m", "mmfm", "finetune", str(RECIPE)),
            f"run.dir={self.folder}",
            f"run.seed={self.seed}",
            "run.trackers=[]",
            f"model.encoders.text.name={weights}",
            f"data.sources.train.path={data}",
            *(f"eval.sources.{name}.path={data}" for name in ("dev", "train")),
            *(f"test.sources.{name}.path={data}" for name in ("test", "train")),
            f"train.epochs={self.epochs}",
            f"optim.lr={self.lr}",
            *self.more,
        ]

    def run(self) -> Job:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with (self.folder / "output.txt").open("w") as output:
            subprocess.run(
                self.command(), cwd=ROOT, env=environment, stdout=output, stderr=output, check=True
            )
        return self

    def scores(self) -> dict[str, float]:
        """Entity F1 on dev and test of a run that is done."""
        if self.theirs:
            found = json.loads((self.folder / "scores.json").read_text())
            return {split: found[split] for split in ("dev", "test")}
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        rows = [row for line in lines if (row := json.loads(line)).get("metric") == "entity_f1"]
        f1 = {row["split"]: row["value"] for row in rows}
        return {"dev": f1["eval"], "test": f1["test"]}

    def baseline(self) -> tuple[float, float]:
        """Entity F1 on test of the dictionary, and by chance."""
        (row,) = [
            row
            for row in json.loads((self.folder / "test.json").read_text())["results"]
            if row["metric"] == "entity_f1"
        ]
        return row["baseline"], row["chance"]


def run_all(jobs: Sequence[Job]) -> None:
    """Run what is not done yet."""
    left = [job for job in dict.fromkeys(jobs) if not job.done]
    with ThreadPoolExecutor(2) as pool:
        for number, job in enumerate(pool.map(Job.run, left), 1):
            told = ", ".join(f"{k} {100 * v:.1f}" for k, v in job.scores().items())
            print(f"{number}/{len(left)} {job.folder.name}: {told}", file=sys.stderr, flush=True)


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % t interval, in percent."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    spread = statistics.stdev(values) / len(values) ** 0.5 * float(t.ppf(0.975, len(values) - 1))
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"
