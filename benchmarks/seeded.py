"""Fine-tuning runs with several seeds: some at a time on one core each, scores and intervals."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t

ROOT = Path(__file__).parents[1]
MMFM = (sys.executable, "-m", "mmfm")


class SeededRun(ABC):
    """One run, in a folder of its own: a run that is done there is not run again."""

    @property
    @abstractmethod
    def folder(self) -> Path: ...

    @property
    def done(self) -> bool:
        """mmfm has looked at its test section, or a peer has written its scores."""
        return any((self.folder / name).exists() for name in ("test.json", "scores.json"))

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Name ▶ score, of a run that is done."""

    def run(self) -> SeededRun:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with (self.folder / "output.txt").open("w") as output:
            subprocess.run(
                self.command(), cwd=ROOT, env=environment, stdout=output, stderr=output, check=True
            )
        return self


@dataclass(frozen=True)
class TunedRun(SeededRun):
    """On emoji art below `runs`: with `tuning` it is judged on a sixth style, where learning rates
    are chosen, otherwise on a seventh.
    """

    runs: Path
    way: str
    lr: float
    seed: int
    tuning: bool = field(default=False, kw_only=True)

    @property
    def folder(self) -> Path:
        kind = "tuning" if self.tuning else "test"
        return self.runs / kind / self.name

    @property
    def name(self) -> str:
        return f"{self.way}-{self.lr:g}-{self.seed}"

    @property
    def split(self) -> str:
        return "pictures-fluent-color" if self.tuning else "pictures-twemoji"

    def test_section(self, data: Path) -> str:
        """The recipe's, as an override."""
        source = {"path": str(data), "splits": [self.split]}
        tasks = {"it": {"type": "classification", "source": "art"}}
        return f"test={json.dumps({'sources': {'art': source}, 'tasks': tasks})}"

    def scores(self) -> dict[str, float]:
        return {"accuracy": metric(self.folder, "accuracy")["test"]}


def add_at_once(parser: argparse.ArgumentParser) -> None:
    """The option of `run_all`."""
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, a core each")


def run_all(runs: Iterable[SeededRun], at_once: int) -> None:
    """Run what is not done yet, so many at once; they share a GPU where there is one."""
    left = [run for run in dict.fromkeys(runs) if not run.done]
    with ThreadPoolExecutor(at_once) as pool:
        for number, run in enumerate(pool.map(SeededRun.run, left), 1):
            told = ", ".join(f"{k} {100 * v:.1f}" for k, v in run.scores().items())
            print(f"{number}/{len(left)} {run.folder.name}: {told}", file=sys.stderr, flush=True)


def best_lr(tried: Iterable[TunedRun]) -> float:
    """The learning rate of the run that is most accurate."""
    return max(tried, key=lambda run: run.scores()["accuracy"]).lr


def metric(folder: Path, name: str) -> dict[str, float]:
    """Split ("eval", "test") ▶ the last value of a metric in a run of mmfm."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := json.loads(line)).get("metric") == name]
    return {row["split"]: row["value"] for row in rows}


def tested(folder: Path, name: str) -> dict[str, Any]:
    """The row of a metric, with its chance and baseline, in a run's test.json."""
    rows = json.loads((folder / "test.json").read_text())["results"]
    (row,) = [row for row in rows if row["metric"] == name]
    assert isinstance(row, dict)
    return row


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % t interval, in percent."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    spread = statistics.stdev(values) / len(values) ** 0.5 * float(t.ppf(0.975, len(values) - 1))
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"
